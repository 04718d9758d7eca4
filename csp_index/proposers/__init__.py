"""Stage 1: candidate labels for single neurons, from models that are shown the neuron's images."""
