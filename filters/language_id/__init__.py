"""Language identification: which language a row is in, and how far a model can be believed."""
