"""Preparation of texts as rows of token ids, and conversion of computed rows to embeddings, scores and other outputs."""
