"""What indexing or extending an index would do, tried on a handful of images before hours are spent."""
