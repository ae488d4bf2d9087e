"""Models that have a URL."""
