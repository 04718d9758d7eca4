"""The audit: which neurons make a network rely on what should not matter."""
