"""The Arrow Flight server."""
