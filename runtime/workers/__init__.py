"""Planning of batches, and threads that compute several batches at the same time."""
