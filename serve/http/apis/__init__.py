"""HTTP APIs. Each has a module or a folder."""
