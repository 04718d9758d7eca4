"""Activating and contrastive images of neurons: how they are chosen, made and judged."""
