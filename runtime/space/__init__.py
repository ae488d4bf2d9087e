"""Spaces: identifiers of what decides a vector, and bounds of how far vectors of one space differ."""
