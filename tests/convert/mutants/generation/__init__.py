"""Mutants of the base checkpoints, as data."""
