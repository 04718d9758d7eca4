"""Ranks of activations over classes of images: pure numerics on NumPy arrays."""
