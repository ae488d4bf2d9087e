"""Models and the HTTP application inside other programs: other ASGI servers, and programs with asyncio."""
