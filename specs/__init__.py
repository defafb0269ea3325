"""Specs to copy and change."""
