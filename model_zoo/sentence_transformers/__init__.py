"""Files that sentence-transformers writes beside a checkpoint."""
