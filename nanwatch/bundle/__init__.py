"""The incident folder on disk, `nanwatch.incident/1`."""
