"""Tuning of models on the user's text."""
