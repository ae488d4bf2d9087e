"""Mutants of small checkpoints: each must give the reference's vectors, or Fletcher must refuse it by name."""
