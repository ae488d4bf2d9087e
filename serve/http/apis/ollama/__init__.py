"""Embedding API of Ollama."""
