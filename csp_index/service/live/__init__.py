"""Models kept loaded: live labels, live search, and the examples an index keeps."""
