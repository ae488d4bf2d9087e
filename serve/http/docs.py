"""The page `/docs`: it renders `/openapi.json` with its own script, so that it works without the internet."""

from __future__ import annotations

from importlib.resources import files

__all__ = ["DOCS_POLICY", "docs_page"]

#: The browser loads nothing for the page from any other server.
DOCS_POLICY = (
    "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def docs_page() -> bytes:
    """Return the page's HTML."""
    return files(__package__).joinpath("docs.html").read_bytes()
