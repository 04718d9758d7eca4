"""How faithful a label is: one module a family of metrics, and the protocol that brings them together."""
