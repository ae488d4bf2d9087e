"""Engine of a model: admission, queue, batches and failures."""
