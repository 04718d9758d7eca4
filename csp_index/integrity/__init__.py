"""Whether an index is whole: what is checked, what is found, and what repairs it."""
