"""Checkpoint folders: configuration, tensors, tokenizer."""
