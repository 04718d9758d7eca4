"""Tables about images: read, whatever format they have, and joined to the images that their rows name."""
