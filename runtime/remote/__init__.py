"""Artifacts by URL: object stores, the HuggingFace hub and folders, and the cache of a node that all its processes share."""
