"""What goes with a release: card, attribution, verification."""
