"""Access to a server: API keys, addresses, permissions."""
