"""Families with rotary positions and norms after each part."""
