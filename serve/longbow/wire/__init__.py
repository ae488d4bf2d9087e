"""Longbow's protocol: connections, streams, search."""
