"""Cohere's embed API."""
