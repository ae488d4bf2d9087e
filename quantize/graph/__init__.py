"""Graph rewriting with quantized weights and activations."""
