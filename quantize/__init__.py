"""Smaller and faster variants of an artefact, and what they cost in accuracy."""
