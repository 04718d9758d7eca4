"""Tensors of small questions: torch where it is loaded or needed, else NumPy arrays with the same methods.

A command that labels one neuron multiplies some matrices of 30 x 512, and would wait longer for torch than for the
answer. So the modules on its path import `torch` from `tensors.library`, and are written once, as for torch.
"""
