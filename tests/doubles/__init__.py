"""Doubles of servers, drivers and libraries that cannot be installed in the tests."""
