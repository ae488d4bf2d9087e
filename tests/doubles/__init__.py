"""Stand-ins for servers that cannot be installed in the tests."""
