"""What readers say of labels and findings: notes, and the names that they gave to neurons. Loads no torch."""
