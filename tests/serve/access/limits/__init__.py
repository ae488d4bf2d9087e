"""Tests of `serve.access.limits`."""
