"""Layers of a network under study: hooks, the axis of the neurons, pooling, coarse maps, attention heads."""
