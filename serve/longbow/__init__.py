"""Texts and vectors into the Longbow vector database, streamed, resumable and counted; and questions to it.

`connection` speaks the protocol, `pacing` decides how much and how fast, `exchange` is one stream with its acknowledgements,
`sink` keeps several of them busy, `journal` remembers on disk what became of every document, `job` puts them together.
"""
