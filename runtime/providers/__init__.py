"""Execution providers: one folder each."""
