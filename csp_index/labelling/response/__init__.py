"""How neurons respond to the whole dataset, and what of that depends on images and labels alone."""
