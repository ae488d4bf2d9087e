"""Models to train: their loading, students with fewer layers, and LoRA."""
