"""Models that make pictures: of a text, or variants of a picture."""
