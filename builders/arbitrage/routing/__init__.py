"""Routing: which teachers are asked for a prompt, and whose answer becomes the row."""
