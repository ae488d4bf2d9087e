"""Base checkpoints: encoders, tokenizers, and the stacks of modules beside them."""
