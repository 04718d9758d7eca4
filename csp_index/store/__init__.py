"""LanceDB: schema, tables, locations, locks, the catalogue, runs, and streams of tensors."""
