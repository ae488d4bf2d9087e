"""Smaller and faster variants of an artifact, and what they cost in accuracy."""
