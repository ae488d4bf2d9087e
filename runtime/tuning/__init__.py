"""Measurement of providers and worker layouts, and the choice among them."""
