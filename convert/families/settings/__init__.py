"""Strict reading of `config.json`."""
