"""What the completions of a release say of teachers, arbiters and routings."""
