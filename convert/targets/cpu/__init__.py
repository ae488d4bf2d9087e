"""Graphs for CPUs: packed tokens, standard operators."""
