"""Access to a server: addresses, API keys and permissions."""
