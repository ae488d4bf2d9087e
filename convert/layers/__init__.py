"""Proof layer by layer: every point of a served graph against transformers' model, or against another variant."""
