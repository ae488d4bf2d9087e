"""Conversion of texts to rows of token ids, and of computed rows to embeddings, scores and other outputs."""
