"""Parts of the HTTP server between a connection and the application: proxies, prefixes of paths, cross-origin requests."""
