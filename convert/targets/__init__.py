"""Emitters: from an `Architecture` to a graph, one file a target, each with the operators that its provider runs best."""
