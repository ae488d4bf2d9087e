"""Graphs for the CUDA provider: packed attention."""
