"""Models of a server: loading, naming, versions, replacement."""
