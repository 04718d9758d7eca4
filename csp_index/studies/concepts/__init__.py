"""A word over all layers: which neurons are called by it, mean it, or had it as a candidate."""
