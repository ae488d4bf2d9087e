"""A session on several devices."""
