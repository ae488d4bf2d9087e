"""Embeddings API of OpenAI."""
