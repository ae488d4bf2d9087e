"""Execution providers, each in its own folder."""
