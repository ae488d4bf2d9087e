"""Ingestion of texts and vectors into the Longbow vector database, and search in it.

`wire` has the protocol: `connection` makes the calls, `pacing` sets the batch size and the waits, `exchange` is one
stream with its acknowledgments, and `sink` runs several streams. `journal` stores the state of every document on disk.
`job` is an ingest job, which can be resumed.
"""
