"""Families whose attention is more than products of queries with keys."""
