"""What an evaluation found, as a page with charts that one file holds."""
