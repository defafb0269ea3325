"""Training from releases."""
