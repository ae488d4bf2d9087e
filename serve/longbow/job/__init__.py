"""Ingest jobs, which count every document and can be resumed."""
