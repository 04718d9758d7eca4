"""Layers of a network under study: hooks, the axis of the neurons, whether values repeat, attention heads."""
