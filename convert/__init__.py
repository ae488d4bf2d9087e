"""Conversion of checkpoints to artifacts, and verification that an artifact's vectors are the model's."""
