"""Arbiters: what scores completions."""
