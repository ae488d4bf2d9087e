"""The engine: admission, queue, batches, failures."""
