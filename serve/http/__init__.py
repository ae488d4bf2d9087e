"""HTTP server: the ASGI application, its routes, and uvicorn."""
