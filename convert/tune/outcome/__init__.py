"""Outcome of a training: artifacts, figures before and after with intervals, and the report."""
