"""Artifact folders: reading them, checking them and writing them."""
