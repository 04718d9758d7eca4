"""What readers say: notes, names and ratings; how they are written, drawn, exported and imported."""
