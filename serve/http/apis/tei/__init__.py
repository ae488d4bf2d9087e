"""The API of HuggingFace's text-embeddings-inference (TEI)."""
