"""Embed API of Cohere, version 2."""
