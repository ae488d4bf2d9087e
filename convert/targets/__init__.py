"""Emitters: each target's package writes an `Architecture` as a graph, in the operators that its provider runs best."""
