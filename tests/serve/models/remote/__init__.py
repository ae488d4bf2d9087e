"""Tests of models by URL."""
