"""Text kernels that builders and filters share: templates, language identification, tokens."""
