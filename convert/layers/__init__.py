"""Comparison layer by layer: every point of a served graph with transformers' model, or with another variant."""
