"""Whether the stored results of studies are whole."""
