"""Live view of a running server in a terminal, from its metrics."""
