"""Maps of layers: each neuron a place, close where neurons mean alike, and clusters with names."""
