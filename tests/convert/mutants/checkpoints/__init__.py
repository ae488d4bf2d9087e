"""Base checkpoints: encoders, tokenizers, and the stacks of modules after the encoder."""
