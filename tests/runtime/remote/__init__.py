"""Tests of artifacts by URL."""
