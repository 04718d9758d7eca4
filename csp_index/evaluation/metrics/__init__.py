"""The metrics of an evaluation: one table of them, and their numerics, apart from I/O."""
