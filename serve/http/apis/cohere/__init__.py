"""API of Cohere: embeddings and rankings, versions 1 and 2."""
