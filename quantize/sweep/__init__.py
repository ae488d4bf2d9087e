"""Sweep: all recipes on one model, measured and compared."""
