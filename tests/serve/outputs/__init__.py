"""Several outputs of one model on every API."""
