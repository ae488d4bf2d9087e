"""Option structs of loading and embedding, and their base class `Options`."""
