"""Soak test of a server of several processes: mixed load while processes are killed, held and exchanged."""
