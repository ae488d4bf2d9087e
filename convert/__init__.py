"""A checkpoint in, an artefact out; and the proof that its vectors are the model's."""
