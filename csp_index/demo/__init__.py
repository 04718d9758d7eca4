"""The demo of csp_index: a procedural image world, its trained tiny models, and neurons whose concepts are known."""
