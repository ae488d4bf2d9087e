"""Training data: rows of files, examples, and their split."""
