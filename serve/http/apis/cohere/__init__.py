"""Embed API of Cohere."""
