"""Mutants of small checkpoints: each must give the reference's vectors or be refused by name."""
