"""Embeddings and activations as arrays and tensors, dense or sparse; statistics of them; images made for neurons."""
