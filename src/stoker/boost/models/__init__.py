"""Tiers close and fast: other arithmetic for the user's model, kept only where it is measured faster in the run itself."""
