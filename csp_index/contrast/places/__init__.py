"""Where a neuron looks in pictures: maps of what drives it, stored or made now by its network."""
