"""Image sources, containers, decoding, and the loader that works ahead of the models."""
