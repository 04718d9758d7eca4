"""The report of an evaluation: one HTML file with tables and charts, and the same data as JSON and CSV."""
