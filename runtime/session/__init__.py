"""The `Session` protocol, and what the sessions of all providers share."""
