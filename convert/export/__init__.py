"""Export: checkpoint in, artifact out."""
