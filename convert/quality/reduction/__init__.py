"""Reduction of dimensions: PCA as the last layer of a new artifact."""
