"""Labels made elsewhere: their published layouts, what fits a layer of the index, and labels that the index keeps."""
