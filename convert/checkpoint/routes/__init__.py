"""Checkpoints with a Router: queries and documents take different modules."""
