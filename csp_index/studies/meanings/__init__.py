"""What single neurons mean beyond one label: several meanings (facets), and logical labels (formulas)."""
