"""Content codings of HTTP: compressed bodies of requests and of answers."""
