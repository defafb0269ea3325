"""Toxicity: a score from a classifier or an endpoint."""
