"""Handlers of the API of text-embeddings-inference (TEI)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import Any, cast, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from fletcher import __version__
from fletcher.model_zoo.card import Output
from fletcher.runtime import Embeddings, Scores, SparseEmbeddings, TokenEmbeddings
from fletcher.runtime.errors import InputError, OptionError
from fletcher.runtime.inputs import Pairs, Texts, TokenIds
from fletcher.runtime.options.embed import EmbedOptions
from fletcher.runtime.tasks.heads import sparse_texts

from ....engine.answering import AnsweringEngine
from ....engine.engine import MAX_QUEUE_TOKENS
from ....errors import EmptyError, FieldError, TooManyError
from ....json_bodies import decode
from ....models.version import ModelVersion
from ...call import Call, Response
from ...embedding_items import embedding_items
from ...json import SLICE_ROWS, gather, json_list
from ...ndjson import NDJSON, stream
from .errors import TEI
from .types import (
    MAX_INPUTS,
    AllItem,
    EmbedAllRequest,
    EmbedItem,
    EmbedRequest,
    Info,
    Rank,
    RerankRequest,
    SimilarityParameters,
    SimilarityRequest,
    SparseRequest,
    SparseValue,
    Token,
    TokenizeRequest,
    fields_of,
    input_type_of,
    overflow_of,
)

__all__ = [
    "TOKEN_HEADERS",
    "embed",
    "embed_all",
    "embed_sparse",
    "info",
    "rerank",
    "similarity",
    "tei_scores",
    "tokenize",
]

#: Difference between 1 and the next smaller float32. A sigmoid that is closer than this to 0 or 1 does not determine its
#: logit.
SIGMOID_STEP = 2.0**-24

_embed = msgspec.json.Decoder(EmbedRequest)
_embed_all = msgspec.json.Decoder(EmbedAllRequest)
_sparse = msgspec.json.Decoder(SparseRequest)
_rerank = msgspec.json.Decoder(RerankRequest)
_similarity = msgspec.json.Decoder(SimilarityRequest)
_tokenize = msgspec.json.Decoder(TokenizeRequest)

Headers = tuple[tuple[bytes, bytes], ...]

TOKEN_HEADERS = {
    "x-compute-tokens": "Tokens of all texts that the model saw",
    "x-tokens-seen": "Tokens of each text that the model saw",
    "x-tokens-dropped": "Tokens of each text that truncation cut",
}


def token_headers(tokens: NDArray[np.int64], dropped: NDArray[np.int32]) -> Headers:
    """Return headers with the token counts. The body of an answer of TEI is a list, which has no place for the counts."""
    return (
        (b"x-compute-tokens", b"%d" % int(tokens.sum())),
        (b"x-tokens-seen", ",".join(map(str, tokens.tolist())).encode()),
        (b"x-tokens-dropped", ",".join(map(str, dropped.tolist())).encode()),
    )


def check_count(call: Call, count: int, field: str, most: int = MAX_INPUTS) -> None:
    """Check the number of items of a field.

    Raises:
        EmptyError: the list has no item.
        TooManyError: the list has too many items.
    """
    if not count:
        raise EmptyError(f"{field} is an empty list: give at least one text", field)
    most = call.limits.most_items(most)
    if count > most:
        raise TooManyError(f"{field} has {count} items; the limit is {most}: send several requests", field)


def texts_of(call: Call, value: str | list[str], field: str = "inputs") -> list[str]:
    """Return a text, or a list of texts, as a list.

    Raises:
        FieldError: the list is empty, or has too many texts.
    """
    texts = [value] if isinstance(value, str) else value
    check_count(call, len(texts), field)
    return texts


def _read_inputs(call: Call, request: EmbedRequest, *, streamed: bool) -> Texts | TokenIds:
    """Return the inputs of a request: a text, token ids, or a list of either."""
    value = request.inputs
    if isinstance(value, str):
        return Texts((value,))
    if not value:
        check_count(call, 0, "inputs")
    kinds = {type(item) for item in value}
    if kinds == {int}:
        return TokenIds([cast("list[int]", value)], request.special_tokens is not False)
    if not streamed:
        check_count(call, len(value), "inputs")
    if kinds == {str}:
        return Texts(tuple(cast("list[str]", value)))
    if kinds != {list}:
        raise FieldError("inputs mixes texts and token ids: send a list of one type", "inputs")
    rows = cast("list[list[int]]", value)
    if [] in rows:
        raise EmptyError(f"inputs[{rows.index([])}] is an empty list of token ids", f"inputs[{rows.index([])}]")
    return TokenIds(rows, request.special_tokens is not False)


async def embed(call: Call) -> Response:
    """Embed texts or token ids."""
    request = decode(_embed, await call.body())
    call.fields = fields_of(request.prompt_name, request.input_type)
    streamed = call.wants(NDJSON)
    inputs = _read_inputs(call, request, streamed=streamed)
    options = request.options
    if isinstance(inputs, TokenIds) and (options.overflow not in ("truncate", "refuse") or options.input_type != "raw"):
        raise FieldError(
            "inputs holds token ids, which do not get a prompt and are always cut at their end: send texts", "inputs"
        )
    if isinstance(inputs, Texts) and request.special_tokens is not None:
        raise FieldError("special_tokens is for token ids, and inputs holds texts: leave it out", "special_tokens")
    if streamed:
        if isinstance(inputs, TokenIds):
            raise FieldError("inputs holds token ids, but a streamed request must hold texts", "inputs")
        return await stream(call, request.model, inputs.texts, options, "float", TEI)
    _, embeddings = await call.ask(request.model, inputs, options)
    rows = _details(embeddings) if request.detail else _slices(embeddings.vectors)
    return Response(200, await gather(json_list(rows)), headers=token_headers(embeddings.tokens, embeddings.dropped))


def _slices(vectors: NDArray[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(vectors), SLICE_ROWS):
        yield vectors[start : start + SLICE_ROWS].tolist()


def _details(embeddings: Embeddings) -> Iterator[list[Any]]:
    for start in range(0, len(embeddings), SLICE_ROWS):
        yield [
            EmbedItem(
                embedding=item.embedding,
                tokens_seen=item.tokens_seen,
                tokens_dropped=item.tokens_dropped,
                scale=item.scale,
                chunks=item.chunks,
            )
            for item in embedding_items(embeddings, start, min(start + SLICE_ROWS, len(embeddings)), binary=False)
        ]


async def embed_all(call: Call) -> Response:
    """Return a vector for each token: the token vectors of a ColBERT model, or the token states that an embedder pools."""
    request = decode(_embed_all, await call.body())
    call.fields = fields_of(request.prompt_name, request.input_type)
    texts = texts_of(call, request.inputs)
    tokens: TokenEmbeddings
    _, tokens = await call.ask(request.model, Texts(tuple(texts)), request.token_options, "token_vectors")
    body = await gather(json_list(_token_slices(tokens, detail=request.detail)))
    return Response(200, body, headers=token_headers(tokens.tokens, tokens.dropped))


def _token_slices(embeddings: TokenEmbeddings, *, detail: bool) -> Iterator[list[Any]]:
    bounds = embeddings.offsets.tolist()
    for index, (start, end) in enumerate(pairwise(bounds)):
        vectors = embeddings.vectors[start:end].tolist()
        if detail:
            seen, dropped = int(embeddings.tokens[index]), int(embeddings.dropped[index])
            yield [AllItem(embeddings=vectors, tokens_seen=seen, tokens_dropped=dropped)]
        else:
            yield [vectors]


async def embed_sparse(call: Call) -> Response:
    """Return the weights of vocabulary tokens for each text."""
    request = decode(_sparse, await call.body())
    call.fields = fields_of(request.prompt_name, request.input_type)
    texts = texts_of(call, request.inputs)
    version = call.models.pick(request.model, ("sparse",))
    check_count(call, len(texts), "inputs", min(MAX_INPUTS, sparse_texts(version.description.dimension)))
    sparse: SparseEmbeddings
    _, sparse = await call.ask(request.model, Texts(tuple(texts)), request.token_options, "sparse")
    body = await gather(json_list(_sparse_slices(sparse)))
    return Response(200, body, headers=token_headers(sparse.tokens, sparse.dropped))


def _sparse_slices(embeddings: SparseEmbeddings) -> Iterator[list[list[SparseValue]]]:
    bounds = embeddings.offsets.tolist()
    for start, end in pairwise(bounds):
        pairs = zip(embeddings.indices[start:end].tolist(), embeddings.values[start:end].tolist(), strict=True)
        yield [[SparseValue(index, value) for index, value in pairs]]


async def rerank(call: Call) -> Response:
    """Return the ranks of texts, sorted by their scores for a query."""
    request = decode(_rerank, await call.body())
    check_count(call, len(request.texts), "texts")
    options = EmbedOptions(input_type="raw", overflow="refuse" if request.truncate is False else "truncate")
    version = call.models.pick(request.model, ("scores",))
    if version.description.dimension != 1:
        raise InputError(
            f"{version.description.name} returns {version.description.dimension} scores for each pair; ranking needs one"
        )
    pairs = Pairs(request.query, tuple(request.texts))
    scores: Scores
    version, scores = await call.ask(request.model, pairs, options, "scores")
    values = tei_scores(scores.scores[:, 0], version.description.activation, raw=request.raw_scores)
    order = np.argsort(-values, kind="stable").tolist()
    ranks = [
        Rank(index=index, score=float(values[index]), text=request.texts[index] if request.return_text else None)
        for index in order
    ]
    return Response(200, msgspec.json.encode(ranks), headers=token_headers(scores.tokens, scores.dropped))


def tei_scores(scores: NDArray[np.float32], activation: str | None, *, raw: bool) -> NDArray[np.float64]:
    """Return logits or their sigmoids, as TEI does, computed from scores after the activation function of the model.

    A float32 sigmoid within 2**-24 of 0 or 1 is treated as a logit of about 16.6 or -16.6.
    """
    values = scores.astype(np.float64)
    if activation == "sigmoid":
        if not raw:
            return values
        inside = np.clip(values, SIGMOID_STEP, 1 - SIGMOID_STEP)
        logits: NDArray[np.float64] = np.log(inside) - np.log1p(-inside)
        return logits
    if raw:
        return values
    sigmoids: NDArray[np.float64] = np.exp(-np.logaddexp(0.0, -values))
    return sigmoids


async def similarity(call: Call) -> Response:
    """Return the cosine similarities of one sentence to others."""
    request = decode(_similarity, await call.body())
    sentences = request.inputs.sentences
    check_count(call, len(sentences), "inputs.sentences", MAX_INPUTS - 1)
    parameters = request.parameters or SimilarityParameters()
    call.fields = fields_of(parameters.prompt_name, parameters.input_type, "parameters.")
    options = EmbedOptions(
        input_type=input_type_of(parameters.prompt_name, parameters.input_type),
        overflow=overflow_of(parameters.truncate, parameters.truncation_direction, parameters.overflow),
        normalize=True,
    )
    texts = Texts((request.inputs.source_sentence, *sentences))
    _, embeddings = await call.ask(request.model, texts, options)
    vectors = embeddings.vectors.astype(np.float64)
    cosines = np.clip(vectors[1:] @ vectors[0], -1.0, 1.0)
    return Response(
        200, msgspec.json.encode(cosines.tolist()), headers=token_headers(embeddings.tokens, embeddings.dropped)
    )


async def tokenize(call: Call) -> Response:
    """Return the tokens of texts without truncation."""
    request = decode(_tokenize, await call.body())
    call.fields = fields_of(request.prompt_name, request.input_type)
    texts = texts_of(call, request.inputs)
    version = call.models.pick(request.model, get_args(Output))
    engine = await awake(version)
    options = EmbedOptions(input_type=input_type_of(request.prompt_name, request.input_type))
    try:
        prompt = options.prompt(engine.backend.info.card)
    except OptionError as error:
        raise call.name_field(error) from error
    describe = partial(engine.backend.describe_tokens, [prompt + text for text in texts])
    rows = await asyncio.get_running_loop().run_in_executor(None, partial(describe, special=request.add_special_tokens))
    answer = [
        [
            Token(
                id=token.id,
                text=token.text,
                special=token.special,
                start=None if token.special else token.start,
                stop=None if token.special else token.end,
            )
            for token in row
        ]
        for row in rows
    ]
    return Response(200, await gather(json_list(iter([row] for row in answer))))


async def info(call: Call) -> Response:
    """Return a description of the first model, and the limits of the server."""
    version = call.models.named[0].answering[0]
    engine = await awake(version)
    served, model = version.description, engine.backend.info
    kinds = {"scores": "reranker", "sparse": "embedding", "vectors": "embedding", "token_vectors": "embedding"}
    pooling = {"sparse": "splade", "token_vectors": "none"}.get(served.output, "+".join(model.card.pooling))
    answer = Info(
        model_id=served.name,
        model_sha=served.digest,
        model_dtype=served.variant.rpartition("-")[2],
        served_model_name=served.name,
        model_type={kinds[served.output]: {} if served.output == "scores" else {"pooling": pooling}},
        max_concurrent_requests=MAX_QUEUE_TOKENS,
        max_input_length=served.max_tokens,
        max_batch_tokens=model.token_budget,
        max_client_batch_size=call.limits.most_items(MAX_INPUTS),
        auto_truncate=True,
        tokenization_workers=model.workers,
        version=__version__,
    )
    return Response(200, msgspec.json.encode(answer))


async def awake(version: ModelVersion) -> AnsweringEngine:
    """Return the engine of a version; wake the version if it sleeps."""
    engine = version.engine
    return await asyncio.get_running_loop().run_in_executor(None, version.wake) if engine is None else engine
