"""Files of weights: safetensors, and pickles of torch that are read without running code; shards of both."""
