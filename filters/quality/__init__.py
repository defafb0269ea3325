"""Quality rules: lengths, repetition, markup, phrases, truncation."""
