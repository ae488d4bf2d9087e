"""Page `/docs`. It renders `/openapi.json` with an inline script, so that it works without the internet."""

from __future__ import annotations

from importlib.resources import files

__all__ = ["DOCS_POLICY", "docs_page"]

#: Content security policy: the browser does not load anything for the page from another server.
DOCS_POLICY = (
    "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def docs_page() -> bytes:
    """Return the HTML of the page."""
    return files(__package__).joinpath("docs.html").read_bytes()
