"""Whether a label says more than one of a network that has learned nothing: by itself, and against such a network."""
