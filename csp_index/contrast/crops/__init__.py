"""Crops of the regions that drive neurons, which can stand in for whole activating images."""
