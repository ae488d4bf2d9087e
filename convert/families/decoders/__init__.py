"""Families with RMS norms, rotary positions and gated units: language models, and encoders of the same build."""
