"""Accuracy, speed, size and memory of artifacts."""
