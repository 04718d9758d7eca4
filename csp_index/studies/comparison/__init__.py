"""How two layers differ: which neurons of one are those of the other, and which concepts only one of them holds."""
