"""Quantization-aware training: torch modules that compute as the graphs that `quantize` writes."""
