"""How well labels fit neurons, as numbers: pure numerics, apart from I/O."""
