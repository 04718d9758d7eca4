"""The report of an audit: one HTML file for people who never saw csp_index, printed as PDF, with a digest."""
