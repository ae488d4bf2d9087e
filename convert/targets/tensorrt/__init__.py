"""Graphs for TensorRT: standard operators, rectangular batches."""
