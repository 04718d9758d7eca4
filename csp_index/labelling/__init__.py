"""From candidates and evidence to scores, confidence, and stored labels."""
