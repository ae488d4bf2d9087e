"""Checks of a graph's file before a provider opens it."""
