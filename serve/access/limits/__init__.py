"""Limits of clients: their form, and the count of their use."""
