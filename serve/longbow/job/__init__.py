"""Ingest jobs: documents in, counted and resumable."""
