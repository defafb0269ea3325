"""The documentation's own tools: examples that run, reference pages made from the code."""
