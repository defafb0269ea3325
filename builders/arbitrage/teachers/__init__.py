"""Teachers: one module per engine."""
