"""API of HuggingFace text-embeddings-inference (TEI)."""
