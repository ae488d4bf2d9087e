"""Protocol of Longbow: connections, streams, search."""
