"""Labels as the index keeps them: read back without torch, or made and written."""
