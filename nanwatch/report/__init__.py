"""Bundle in, one HTML page out."""
