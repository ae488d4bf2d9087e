"""Scores of pairs of texts, as vLLM gives them."""
