"""Routes of `/playground`: the page and its files. They need no key; the page asks its user for one."""

from __future__ import annotations

from typing import Final

from ...errors import UnknownRouteError
from ..call import Call, Response
from ..playground.assets import HOME, POLICY, read_assets
from ..route import Route, named_part

__all__ = ["playground_routes"]

#: Path of the page.
PAGE: Final = "/playground"

#: Path of its files.
FILES: Final = "/playground/{file}"

#: Headers of all its files. No answer is stored, so a browser never mixes files of two versions of the server.
HEADERS: Final = (
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
)


def playground_routes() -> list[Route]:
    """Return the routes. They are not in the OpenAPI document, because no program needs them."""
    assets = read_assets()

    def answer(call: Call, name: str) -> Response:
        asset = assets.get(name)
        if asset is None:
            raise UnknownRouteError(f"the page /playground has no file {name[:100]!r}")
        return Response(200, asset.body, asset.content_type, HEADERS)

    async def page(call: Call) -> Response:
        if call.scope["path"].endswith("/"):  # the addresses in the page are relative to the path without it
            return Response(307, b"", b"text/plain", ((b"location", b"../playground"),))
        return answer(call, HOME)

    async def file(call: Call) -> Response:
        return answer(call, named_part(call.scope["path"], FILES))

    return [Route("GET", PAGE, page, access="open"), Route("GET", FILES, file, access="open")]
