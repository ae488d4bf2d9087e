"""A checkpoint in, an artifact out; and the proof that its vectors are the model's."""
