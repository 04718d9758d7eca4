"""Routes of studies and of what readers write."""
