"""The demo: a real training that goes bad, watched by nanwatch, and a check of everything that came out of it.

A program that uses the product as people do: only the command line starts it.
"""
