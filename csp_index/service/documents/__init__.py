"""The documents that pages and their JSON twins show."""
