"""Handlers of the API of text-embeddings-inference (TEI)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any, cast, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from fletcher import __version__
from fletcher.model_zoo.card import Output
from fletcher.runtime import Embeddings, SparseEmbeddings, TokenEmbeddings
from fletcher.runtime.errors import OptionError
from fletcher.runtime.inputs import Texts, TokenIds
from fletcher.runtime.options.embed import EmbedOptions
from fletcher.runtime.tasks.heads import sparse_texts
from fletcher.runtime.tokenizing.token_details import TextToken

from ....engine.answering import AnsweringEngine
from ....engine.engine import MAX_QUEUE_TOKENS
from ....errors import EmptyError, FieldError, TooLargeError
from ....json_bodies import decode
from ....models.description import ModelDescription
from ....models.version import ModelVersion
from ...call import Call, Response
from ...embedding_items import SparseValue, embedding_items, sparse_values
from ...json import SLICE_ROWS, gather, json_list, json_numbers, json_rows
from ...ndjson import NDJSON, stream
from ..answers import MAX_INPUTS, Headers, check_count, token_headers
from ..calibrated import calibration_of
from ..foreign_fields import RANKING, TEXTS, translate
from ..ranking import AnswerForm, answer_of, rank, texts_of_documents
from .errors import TEI
from .pooled import ask_unscaled
from .types import (
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
    Token,
    TokenizeRequest,
    fields_of,
    input_type_of,
    overflow_of,
)

__all__ = [
    "embed",
    "embed_all",
    "embed_sparse",
    "info",
    "rerank",
    "similarity",
    "tokenize",
]

#: Largest number of characters of a request to `/tokenize`.
MAX_TOKENIZED = 1 << 18

#: Largest number of characters that are tokenized on the event loop.
INLINE_TOKENIZED = 1 << 10

#: Bytes of a token of `/tokenize` in memory: the tokenizer's record, two of this server, and 70 bytes of JSON.
TOKEN_BYTES = 700

#: Form of the answer to a request with `documents`.
JINA = AnswerForm(api_version="1", documents=True, voyage=False)

_embed = msgspec.json.Decoder(EmbedRequest)
_embed_all = msgspec.json.Decoder(EmbedAllRequest)
_sparse = msgspec.json.Decoder(SparseRequest)
_rerank = msgspec.json.Decoder(RerankRequest)
_similarity = msgspec.json.Decoder(SimilarityRequest)
_tokenize = msgspec.json.Decoder(TokenizeRequest)


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
    request = decode(_embed, await call.body(), partial(translate, TEXTS, call))
    call.fields = {**fields_of(request.prompt_name, request.input_type), **call.fields}
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
    embeddings: Embeddings
    normalized: Headers = ()
    if request.normalize:
        _, embeddings = await call.ask(request.model, inputs, options)
    else:
        embeddings, normalized = await ask_unscaled(call, request.model, inputs, options)
    rows = _details(embeddings) if request.detail else _slices(embeddings.vectors)
    headers = (*token_headers(embeddings.tokens, embeddings.dropped), *normalized)
    values = 0 if embeddings.chunks is None or not request.detail else embeddings.chunks.vectors.size
    return Response(200, await gather(json_list(rows), values), headers=headers)


def _slices(vectors: NDArray[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(vectors), SLICE_ROWS):
        yield json_rows(vectors[start : start + SLICE_ROWS])


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
    """Return a vector for each token: those of a ColBERT model or of BGE-M3, or the states that an embedder pools."""
    request = decode(_embed_all, await call.body(), partial(translate, TEXTS, call))
    call.fields = {**fields_of(request.prompt_name, request.input_type), **call.fields}
    texts = texts_of(call, request.inputs)
    tokens: TokenEmbeddings
    _, tokens = await call.ask(request.model, Texts(tuple(texts)), request.token_options, "token_vectors")
    body = await gather(json_list(_token_slices(tokens, detail=request.detail)), tokens.vectors.size)
    return Response(200, body, headers=token_headers(tokens.tokens, tokens.dropped))


def _token_slices(embeddings: TokenEmbeddings, *, detail: bool) -> Iterator[list[Any]]:
    bounds = embeddings.offsets.tolist()
    for index, (start, end) in enumerate(pairwise(bounds)):
        vectors = json_numbers(embeddings.vectors[start:end])
        if detail:
            seen, dropped = int(embeddings.tokens[index]), int(embeddings.dropped[index])
            yield [AllItem(embeddings=vectors, tokens_seen=seen, tokens_dropped=dropped)]
        else:
            yield [vectors]


async def embed_sparse(call: Call) -> Response:
    """Return the weights of vocabulary tokens for each text."""
    request = decode(_sparse, await call.body(), partial(translate, TEXTS, call))
    call.fields = {**fields_of(request.prompt_name, request.input_type), **call.fields}
    texts = texts_of(call, request.inputs)
    version = call.pick(request.model, ("sparse",))
    served = version.description
    most = sparse_texts(served.dimension) if served.output == "sparse" else MAX_INPUTS
    check_count(call, len(texts), "inputs", min(MAX_INPUTS, most))
    sparse: SparseEmbeddings
    _, sparse = await call.ask(request.model, Texts(tuple(texts)), request.token_options, "sparse")
    body = await gather(json_list(_sparse_slices(sparse)), 2 * sparse.values.size)
    return Response(200, body, headers=token_headers(sparse.tokens, sparse.dropped))


def _sparse_slices(embeddings: SparseEmbeddings) -> Iterator[list[list[SparseValue]]]:
    for text in range(len(embeddings)):
        yield [sparse_values(embeddings, text)]


async def rerank(call: Call) -> Response:
    """Return the ranks of `texts` as TEI does, or of `documents` as Jina, vLLM and infinity do, sorted by their scores."""
    request = decode(_rerank, await call.body(), partial(translate, RANKING, call))
    if (request.texts is None) == (request.documents is None):
        raise FieldError("the request must have exactly one of texts and documents", "texts")
    if request.documents is not None:
        texts = texts_of_documents(request.documents)
        ranking = await rank(call, request, texts, "documents")
        body = msgspec.json.encode(answer_of(call, request, texts, ranking, JINA))
    else:
        texts = request.texts or []
        ranking = await rank(call, request, texts, "texts")
        shown = request.return_text or bool(request.return_documents)
        ranks = [
            Rank(index=index, score=float(ranking.values[index]), text=texts[index] if shown else None)
            for index in ranking.order
        ]
        body = msgspec.json.encode(ranks)
    return Response(200, body, headers=token_headers(ranking.scores.tokens, ranking.scores.dropped))


async def similarity(call: Call) -> Response:
    """Return the cosine similarities of one sentence to others, or the probabilities that they belong together."""
    request = decode(_similarity, await call.body(), partial(translate, TEXTS, call))
    sentences = request.inputs.sentences
    check_count(call, len(sentences), "inputs.sentences", MAX_INPUTS - 1)
    parameters = request.parameters or SimilarityParameters()
    call.items = lambda index: f"inputs.sentences[{index - 1}]" if index else "inputs.source_sentence"
    call.fields = {**fields_of(parameters.prompt_name, parameters.input_type, "parameters."), **call.fields}
    options = EmbedOptions(
        input_type=input_type_of(parameters.prompt_name, parameters.input_type),
        overflow=overflow_of(parameters.truncate, parameters.truncation_direction, parameters.overflow),
        normalize=True,
    )
    texts = Texts((request.inputs.source_sentence, *sentences))
    if request.calibrated:
        calibration_of(call.pick(request.model), "cosine", options.input_type or "raw")
    version, embeddings = await call.ask(request.model, texts, options)
    vectors = embeddings.vectors.astype(np.float64)
    answer = np.clip(vectors[1:] @ vectors[0], -1.0, 1.0)
    if request.calibrated:
        answer = calibration_of(version, "cosine", options.input_type or "raw").apply(answer)
    return Response(
        200, msgspec.json.encode(answer.tolist()), headers=token_headers(embeddings.tokens, embeddings.dropped)
    )


async def tokenize(call: Call) -> Response:
    """Return the tokens of texts without truncation."""
    request = decode(_tokenize, await call.body(), partial(translate, TEXTS, call))
    call.fields = {**fields_of(request.prompt_name, request.input_type), **call.fields}
    texts = texts_of(call, request.inputs)
    version = call.pick(request.model, get_args(Output))
    engine = await awake(version)
    options = EmbedOptions(input_type=input_type_of(request.prompt_name, request.input_type))
    try:
        prompt = options.prompt(engine.backend.info.card)
    except OptionError as error:
        raise call.name_field(error) from error
    characters = sum(map(len, texts)) + len(prompt) * len(texts)
    if characters > MAX_TOKENIZED:
        raise TooLargeError(
            f"the request has {characters} characters to tokenize; the limit is {MAX_TOKENIZED}: send several requests"
        )
    call.limits.budget.hold(
        TOKEN_BYTES * characters, call.draft
    )  # a text has at most about one token for each character
    describe = partial(engine.backend.describe_tokens, special=request.add_special_tokens)
    pieces = json_list(_described(describe, [prompt + text for text in texts]))
    if characters > INLINE_TOKENIZED:
        body = await asyncio.get_running_loop().run_in_executor(None, b"".join, pieces)
    else:
        body = b"".join(pieces)
    return Response(200, body)


def _described(describe: Callable[[list[str]], list[list[TextToken]]], texts: list[str]) -> Iterator[list[list[Token]]]:
    """Yield the tokens of each text."""
    for text in texts:
        (row,) = describe([text])
        yield [
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
        ]


async def info(call: Call) -> Response:
    """Return a description of the first model, and the limits of the server."""
    version = call.models.named[0].answering[0]
    engine = await awake(version)
    served, model = version.description, engine.backend.info
    pooling = {"sparse": "splade", "token_vectors": "none"}.get(served.output, "+".join(model.card.pooling))
    answer = Info(
        model_id=served.name,
        model_sha=served.digest,
        model_dtype=served.variant.rpartition("-")[2],
        served_model_name=served.name,
        model_type={"embedding": {"pooling": pooling}} if served.output != "scores" else _scores_type(served),
        max_concurrent_requests=MAX_QUEUE_TOKENS,
        max_input_length=served.max_tokens,
        max_batch_tokens=model.token_budget,
        max_client_batch_size=call.limits.most_items(MAX_INPUTS),
        auto_truncate=True,
        tokenization_workers=model.workers,
        version=__version__,
    )
    return Response(200, msgspec.json.encode(answer))


def _scores_type(served: ModelDescription) -> dict[str, dict[str, str]]:
    """Return TEI's type of a model that gives scores: a model with several labels is a classifier."""
    return {"reranker" if served.dimension == 1 else "classifier": {}}


async def awake(version: ModelVersion) -> AnsweringEngine:
    """Return the engine of a version; wake the version if it sleeps."""
    engine = version.engine
    return await asyncio.wrap_future(version.wake_soon()) if engine is None else engine
