"""How a network learned: what each neuron of a layer meant at every checkpoint of its training."""
