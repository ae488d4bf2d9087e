"""Graphs for CoreML: static shapes."""
