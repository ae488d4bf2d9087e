"""The artifact folder on disk: its files, its manifest, and writing it."""
