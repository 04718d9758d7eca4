"""The documents about a word over all layers, and their shapes."""
