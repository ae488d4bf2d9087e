"""Embeddings as Arrow columns and batches."""
