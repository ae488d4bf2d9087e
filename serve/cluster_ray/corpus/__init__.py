"""Embedding of a corpus on a cluster with Ray Data, part by part, so that every row is in the output once whatever dies."""
