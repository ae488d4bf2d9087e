"""Measures of vectors. They know neither files nor models."""
