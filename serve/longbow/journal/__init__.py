"""The journal of an ingest job: state of every document, on disk."""
