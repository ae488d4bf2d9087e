"""The `/docs` page: it renders `/openapi.json` with its own few lines of script, so it works without the internet."""

from __future__ import annotations

from importlib.resources import files

__all__ = ["DOCS_POLICY", "docs_page"]

#: The browser itself holds the page to its word: nothing from anywhere but this server.
DOCS_POLICY = (
    "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def docs_page() -> bytes:
    """The page's HTML."""
    return files(__package__).joinpath("docs.html").read_bytes()
