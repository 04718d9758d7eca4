"""Linear explanations: a neuron as a weighted sum of the presence of a few texts."""
