"""What neurons have to do with classes of images: which class an image is in, how well a neuron tells it."""
