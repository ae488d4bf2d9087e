"""Certificates of a server: they are read, checked, and exchanged while connections go on."""
