"""Labels grouped by broader words, each at the level that its neuron's activations bear."""
