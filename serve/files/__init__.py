"""Bulk jobs: they read files of texts and write files of vectors."""
