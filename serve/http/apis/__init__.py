"""HTTP APIs: one module or folder each."""
