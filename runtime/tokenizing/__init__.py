"""Conversion of texts to token ids."""
