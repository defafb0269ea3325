"""Contamination: rows that a benchmark of the spec holds too."""
