"""Requests in, vectors out: one engine behind every door (HTTP, Arrow Flight)."""
