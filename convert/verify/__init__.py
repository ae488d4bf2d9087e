"""Verification of an artifact against the reference."""
