"""Rewriting a graph with quantized weights and activations."""
