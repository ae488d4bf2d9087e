"""Right results of the drivers' calls, by sentence-transformers in float32, and the comparison with them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sentence_transformers import CrossEncoder, SentenceTransformer

from ..convert.tiny import save_embedder
from .driver import Made

__all__ = ["DOCUMENTS", "INPUTS", "MODELS", "TOLERANCE", "Reference", "fault", "save_prompted"]

#: Names of the served models: the real all-MiniLM-L6-v2, a tiny embedder with prompts and Matryoshka lengths, and a tiny
#: reranker.
MODELS = ("minilm", "prompted", "reranker")

TEXTS = ["A man is eating food.", "How do I reset my password?", "Ein schönes Café in Köln", "hello world"]

#: Query and documents of words that the tiny reranker has; the documents' scores differ.
QUERY = "w1 w2 w3?"
DOCUMENTS = ["w4 w5, w6 w7!", "w1", "w9 . w9 , w10", "w1 w2 w3 w20"]

#: Inputs of a driver, as harness.py reads them.
INPUTS = {"texts": TEXTS, "query": QUERY, "documents": DOCUMENTS}

#: Largest difference of a component or score from the reference, absolute. Both sides compute in float32.
TOLERANCE = 1e-5

#: End of an `expected` whose call embeds the first text alone.
OF_ONE_TEXT = " of one text"

PROMPTS = {"query": "find: ", "document": "text: "}


def save_prompted(folder: Path) -> Path:
    """Write a tiny embedder that has prompts for queries and documents, and Matryoshka lengths, and return its folder."""
    save_embedder(folder)
    settings = {"prompts": PROMPTS, "matryoshka_dimensions": [16, 8], "similarity_fn_name": "cosine"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    return folder


@dataclass(frozen=True, slots=True)
class Reference:
    """`Reference`: right results, by the word in `expected`.

    Attributes:
        vectors: vectors of TEXTS, (texts, dimension): `vectors` and `pooled` (without the last Normalize) of MiniLM;
            `query`, `document` and both `in 16 dimensions` of the tiny embedder.
        scores: score of each document, (documents,).
    """

    vectors: dict[str, np.ndarray]
    scores: np.ndarray

    @classmethod
    def compute(cls, minilm: Path, prompted: Path, reranker: Path) -> Reference:
        """Compute the results of three checkpoints."""
        model = SentenceTransformer(str(minilm), device="cpu")
        pooled = SentenceTransformer(modules=list(model)[:2], device="cpu")
        vectors = {"vectors": model.encode(TEXTS), "pooled": pooled.encode(TEXTS)}
        tiny = SentenceTransformer(str(prompted), device="cpu")
        for name in PROMPTS:
            vectors[name] = tiny.encode(TEXTS, prompt_name=name)
            short = tiny.encode(TEXTS, prompt_name=name, truncate_dim=16, normalize_embeddings=True)
            vectors[f"{name} in 16 dimensions"] = short
        pairs = [(QUERY, document) for document in DOCUMENTS]
        return cls(vectors, np.asarray(CrossEncoder(str(reranker), device="cpu").predict(pairs)))


def fault(made: Made, reference: Reference) -> str | None:
    """Return the fault of a call, or None for a right result.

    Kinds of `expected`: a key of `Reference.vectors`, also with `of one text`; `ranking` and `ranking of N`;
    `similarities` and `most similar N` of the first text and the others; `names` of the served models;
    `nothing`, an empty list; `refused TEXT`.
    """
    if made.expected.startswith("refused "):
        words = made.expected.removeprefix("refused ")
        if made.error is None:
            return "the call was answered; it must be refused"
        return None if words in made.error else f"the message lacks “{words}”: {_short(made.error)}"
    if made.error is not None:
        return _short(made.error)
    if made.expected.startswith("ranking"):
        number = int(made.expected.removeprefix("ranking").removeprefix(" of ") or len(DOCUMENTS))
        order = np.argsort(-reference.scores, kind="stable")[:number].tolist()
        return _ranking_fault(made.value, order, reference.scores)
    if made.expected == "nothing":
        return f"the result is {_short(repr(made.value))}, not empty" if made.value else None
    if made.expected == "names":
        missing = [name for name in MODELS if name not in made.value]
        return f"{', '.join(missing)} not in {made.value}" if missing else None
    first, *others = reference.vectors["vectors"]
    similarities = np.array([first @ other for other in others])
    if made.expected == "similarities":
        return _difference(made.value, similarities)
    if made.expected.startswith("most similar "):
        number = int(made.expected.removeprefix("most similar "))
        return _ranking_fault(made.value, np.argsort(-similarities)[:number].tolist(), similarities)
    right = reference.vectors[made.expected.removesuffix(OF_ONE_TEXT)]
    value = made.value
    if made.expected.endswith(OF_ONE_TEXT):
        right = right[:1]
    return _difference(value, right)


def _ranking_fault(pairs: Any, order: list[int], scores: np.ndarray) -> str | None:
    indices = [int(index) for index, _ in pairs]
    if indices != order:
        return f"the order is {indices}, not {order}"
    return _difference([score for _, score in pairs], scores[order])


def _difference(value: Any, right: np.ndarray) -> str | None:
    """Return a sentence about values that differ from the right ones in form or by more than `TOLERANCE`."""
    try:
        found = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        return f"the result is not numeric: {_short(repr(value))}"
    if found.shape != right.shape:
        return f"the result has the form {found.shape}, not {right.shape}"
    largest = float(np.abs(found - right).max())
    return None if largest <= TOLERANCE else f"the largest difference from the reference is {largest:.1e}"


def _short(message: str) -> str:
    """Return a message as one line of at most 300 characters."""
    return " ".join(message.split())[:300]
