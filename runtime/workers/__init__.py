"""Batches: planning them, and computing several at once."""
