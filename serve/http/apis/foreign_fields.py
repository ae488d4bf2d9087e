"""Fields of other servers' APIs that a body may have: one table for texts to embed, one for documents to rank.

A field that asks for what Fletcher does anyway is accepted. A field that means the same as a field of Fletcher is translated.
A value that would change the answer in a way that Fletcher does not offer is refused by name. `docs/reference/clients.md` has
the same tables; a test compares them. Bodies without such fields do not come here (`json_bodies.decode`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from ...errors import FieldError
from ..call import Call

__all__ = ["EMBEDDING", "RANKING", "TEXTS", "Foreign", "Table", "schemas", "translate"]

#: Fields of Fletcher, with their values, that mean the same as a foreign field.
Changes = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Foreign:
    """A field of another server.

    Attributes:
        name: name of the field.
        servers: servers whose clients send it.
        schema: JSON schema of the accepted values.
        meaning: effect of the field, for the documentation.
        read: returns the fields of Fletcher that mean the same; None if Fletcher does not offer what a value asks for.
        refusal: end of the error message for a refused value.
    """

    name: str
    servers: str
    schema: Mapping[str, Any]
    meaning: str
    read: Callable[[Any], Changes | None]
    refusal: str = ""


Table = Mapping[str, Foreign]

_NOTHING: Final[Changes] = MappingProxyType({})


def translate(table: Table, call: Call, body: dict[str, Any]) -> None:
    """Replace the foreign fields of a body, in place.

    The call gets the names of the translated fields, so that later errors use the client's names.

    Args:
        table: the fields that the route accepts.
        call: the request.
        body: the decoded body.

    Raises:
        FieldError: Fletcher does not offer what a field asks for, or two fields contradict each other.
    """
    names = dict(call.fields)
    for name in [name for name in table if name in body]:
        foreign, value = table[name], body.pop(name)
        changes = foreign.read(value)
        if changes is None:
            raise FieldError(f"{name} is {_shown(value)}: {foreign.refusal}", name)
        for target, meant in changes.items():
            if body.setdefault(target, meant) != meant:
                raise FieldError(
                    f"{name} is {_shown(value)}, but {target} is {_shown(body[target])}: leave one of them out", name
                )
            names[target] = name
    call.fields = names


def _shown(value: Any) -> str:
    """Return a value of a body as JSON has it, shortened."""
    text = {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def schemas(table: Table) -> dict[str, Mapping[str, Any]]:
    """Return the JSON schemas of the fields of a table, for the OpenAPI document."""
    return {
        name: {**foreign.schema, "description": f"{foreign.servers}: {foreign.meaning}"}
        for name, foreign in table.items()
    }


# Kinds of fields ------------------------------------------------------------------------------------------------------


def _same(first: Any, second: Any) -> bool:
    return type(first) is type(second) and first == second


def _choice(name: str, servers: str, values: Sequence[tuple[Any, Changes]], meaning: str, refusal: str = "") -> Foreign:
    """Return a field with a fixed list of accepted values, each with the fields of Fletcher that mean the same."""

    def read(value: Any) -> Changes | None:
        return next((changes for accepted, changes in values if _same(accepted, value)), None)

    return Foreign(name, servers, {"enum": [value for value, _ in values]}, meaning, read, refusal)


def _fixed(name: str, servers: str, values: Sequence[Any], meaning: str, refusal: str) -> Foreign:
    """Return a field that is accepted with the values that ask for what happens anyway."""
    return _choice(name, servers, [(value, _NOTHING) for value in values], meaning, refusal)


def _ignored(name: str, servers: str, kind: type, meaning: str) -> Foreign:
    """Return a field whose value cannot change the answer."""

    def read(value: Any) -> Changes | None:
        return _NOTHING if type(value) is kind else None

    schema = {"type": {str: "string", int: "integer"}[kind]}
    return Foreign(name, servers, schema, meaning, read, f"it must be of type {schema['type']}")


def _renamed(name: str, servers: str, target: str, schema: Mapping[str, Any]) -> Foreign:
    """Return a field that has another name in Fletcher. Fletcher's field checks the value."""
    return Foreign(name, servers, schema, f"the same as `{target}`", lambda value: {target: value})


def _table(*fields: Foreign) -> Table:
    return MappingProxyType({field.name: field for field in fields})


# Tables ---------------------------------------------------------------------------------------------------------------

_TEXT: Final = {"type": "string"}
_COUNT: Final = {"type": "integer", "minimum": 1}

#: Fields that concern neither texts nor vectors.
_COMMON = (
    _ignored("priority", "vLLM, Cohere", int, "not used; the header `X-Priority` sets the priority"),
    _ignored("user", "OpenAI, vLLM", str, "not used and not logged"),
    _ignored("request_id", "vLLM", str, "not used; the header `x-request-id` sets the id"),
    _ignored("cache_salt", "vLLM", str, "not used: a cached vector is the same as a computed one"),
    _fixed(
        "truncate_prompt_tokens",
        "vLLM",
        [-1],
        "-1 is the model's own limit, as always",
        "a text is always cut at the model's own limit: leave it out, or use -1",
    ),
    _fixed(
        "add_special_tokens",
        "vLLM",
        [True],
        "true is what happens always",
        "the model was trained with its special tokens, and Fletcher always adds them",
    ),
)

#: Fields of `/v1/embeddings` and its other paths.
EMBEDDING: Final = _table(
    Foreign(  # before the fields that are translated to it
        "dimensions",
        "infinity",
        {"enum": [0]},
        "0 is the full length; other values are those of Fletcher's own field",
        lambda value: _NOTHING if _same(value, 0) else {"dimensions": value},
    ),
    *[field for field in _COMMON if field.name != "user"],
    _choice(
        "truncation",
        "Voyage",
        [(True, _NOTHING), (False, {"overflow": "refuse"})],
        "true is `overflow` `truncate`, the default; false is `refuse`",
        "use true or false",
    ),
    _choice(
        "truncate",
        "NVIDIA NIM, Jina, Cohere",
        [
            (True, _NOTHING),
            ("END", _NOTHING),
            (False, {"overflow": "refuse"}),
            ("NONE", {"overflow": "refuse"}),
            ("START", {"overflow": "truncate_left"}),
        ],
        "true and `END` are `overflow` `truncate`, the default; false and `NONE` are `refuse`; `START` is `truncate_left`",
        "use true, false, END, START or NONE",
    ),
    _choice(
        "truncation_side",
        "vLLM",
        [("right", _NOTHING), ("left", {"overflow": "truncate_left"})],
        "`right` is `overflow` `truncate`, the default; `left` is `truncate_left`",
        "use right or left",
    ),
    _renamed("task", "Jina", "input_type", _TEXT),
    _renamed("prompt_name", "text-embeddings-inference", "input_type", _TEXT),
    _fixed(
        "late_chunking",
        "Jina",
        [False],
        "false is the default",
        "true joins the texts of a request to one document, which Fletcher does not do. To divide one long text, use "
        'overflow "late"',
    ),
    _choice(
        "embedding_type",
        "Jina",
        [("float", _NOTHING), ("base64", {"encoding_format": "base64"})],
        "`float` is the default; `base64` is the same as in `encoding_format`",
        "use float or base64, and dtype for other types of elements",
    ),
    _choice(
        "encoding_type",
        "LlamaIndex's Jina client",
        [("float", _NOTHING), ("base64", {"encoding_format": "base64"})],
        "the same as `embedding_type`",
        "use float or base64, and dtype for other types of elements",
    ),
    _renamed("normalized", "Jina", "normalize", {"type": "boolean"}),
    _fixed("return_multivector", "Jina", [False], "false is the default", "use /embed_all for vectors of tokens"),
    _fixed(
        "output_dtype",
        "Voyage, Mistral",
        ["float"],
        "`float` is the default",
        "use float, and dtype for other types of elements: Fletcher's int8 has a scale for each vector",
    ),
    _renamed("output_dimension", "Voyage, Mistral, Cohere", "dimensions", _COUNT),
    _fixed("modality", "infinity, NVIDIA NIM", ["text"], "`text` is the default", "this server has models of texts"),
    _choice(
        "embed_dtype",
        "vLLM",
        [("float32", _NOTHING), ("float16", {"dtype": "float16"})],
        "`float32` is the default; `float16` is the same as in `dtype`",
        "use float32 or float16",
    ),
    _fixed(
        "endianness",
        "vLLM",
        ["native", "little"],
        "base64 is always little-endian",
        "base64 has little-endian numbers: use little",
    ),
)

#: Fields of the embedding routes of text-embeddings-inference.
TEXTS: Final = _table(
    *_COMMON,
    _fixed(
        "encoding_format",
        "huggingface_hub",
        ["float"],
        "`float` is the default",
        "this route returns numbers: use /v1/embeddings for base64",
    ),
    _fixed(
        "parameters",
        "huggingface_hub",
        [{}],
        "its `text_classification` always sends it",
        "put fields beside inputs",
    ),
)

#: Fields of `/rerank`, `/v1/rerank`, `/v2/rerank` and `/v1/score`.
RANKING: Final = _table(
    *_COMMON,
    _renamed("top_k", "Voyage", "top_n", _COUNT),
    _choice(
        "truncation",
        "Voyage",
        [(True, _NOTHING), (False, {"truncate": False})],
        "the same as `truncate`",
        "use true or false",
    ),
    _fixed(
        "truncation_side",
        "vLLM",
        ["right"],
        "`right` is what happens always",
        "a long pair is always cut at the end of its longer text",
    ),
    _fixed(
        "max_chunks_per_doc",
        "Cohere v1",
        [1],
        "1 is what happens always",
        "a document is always one chunk: leave it out, or divide long documents",
    ),
    _fixed(
        "rank_fields",
        "Cohere v1",
        [["text"]],
        '`["text"]` is what happens always',
        "only the field text of a document is read",
    ),
    _fixed("return_embeddings", "Jina", [False], "false is the default", "a reranker has no vectors: use false"),
    _fixed(
        "use_activation",
        "vLLM",
        [True],
        "true is the default",
        "use raw_scores for scores without their activation function",
    ),
)
