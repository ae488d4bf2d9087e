"""`http_routes`: the list of all HTTP routes. A new API adds one line here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..models.changes import ADMIN_OFF, AdminRules
from .apis.admin import admin_routes
from .apis.card import card_routes
from .apis.cbor import encode_routes
from .apis.cohere.routes import cohere_routes
from .apis.longbow import longbow_routes
from .apis.ollama.routes import ollama_routes
from .apis.openai.routes import openai_routes
from .apis.playground import playground_routes
from .apis.service import service_routes
from .apis.space import space_routes
from .apis.tei.routes import tei_routes
from .apis.vllm.routes import vllm_routes
from .playground.options import Pages
from .route import Route

if TYPE_CHECKING:
    from ..longbow.door import LongbowDoor

__all__ = ["ADMIN_PATHS", "computing_routes", "http_routes"]

#: Beginning of the paths of the admin API.
ADMIN_PATHS: Final = "/admin/"

#: Options of the pages by default.
PAGES: Final = Pages()


def computing_routes() -> list[Route]:
    """Return the routes of the APIs that give vectors, scores or tokens."""
    return [
        *openai_routes(),
        *tei_routes(),
        *cohere_routes(),
        *vllm_routes(),
        *ollama_routes(),
        *encode_routes(),
    ]


def http_routes(longbow: LongbowDoor | None = None, admin: AdminRules = ADMIN_OFF, pages: Pages = PAGES) -> list[Route]:
    """Return the routes of all APIs.

    Args:
        longbow: destination of `/v1/ingest`; None rejects such requests.
        admin: rules of the admin API, which may be the only one.
        pages: options of the pages for people.
    """
    if admin.door == "only":
        return [*admin_routes(admin), *service_routes()]
    ours = [*computing_routes(), *longbow_routes(longbow), *card_routes(), *space_routes(), *service_routes()]
    if pages.playground:
        ours += playground_routes()
    return ours if admin.door == "off" else [*ours, *admin_routes(admin)]
