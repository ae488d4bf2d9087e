"""`Session` protocol, and parts that the sessions of all providers share."""
