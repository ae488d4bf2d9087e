"""`Options`: option structs of loading and embedding, and their base."""
