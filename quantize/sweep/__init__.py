"""Sweeps: all recipes on one model, compared."""
