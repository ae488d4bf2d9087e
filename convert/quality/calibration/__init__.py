"""Calibration of similarities to probabilities."""
