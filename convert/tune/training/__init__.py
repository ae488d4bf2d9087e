"""Training by sentence-transformers' trainer: losses, checkpoints, resumption, progress, errors."""
