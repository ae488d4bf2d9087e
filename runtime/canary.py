"""`Canary`: a few texts of an artifact, their token ids and the vectors that a session must reproduce.

An artifact whose session does not reproduce them is not loaded, so that a server never starts with wrong vectors. The file is
a safetensors file that other programs can read: `ids` int32 (total_tokens,), `offsets` int64 (n + 1,), `vectors` float32
(n, dimension). Its metadata holds the texts (JSON) and the origin of the vectors. The file of a reranker also has
`token_types` int32 (total_tokens,), and the queries in its metadata. The file of a SPLADE model has `indices`, `values` and
`row_offsets` instead of `vectors`. The `vectors` of a ColBERT model are (total_tokens, dimension). The file of BGE-M3 also
has its further outputs, `token_weights` (total_tokens, 1) and `token_vectors` (total_tokens, width).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fletcher.model_zoo.card import Accuracy, ModelCard, Output

from .artifact.manifest import TOKEN_WEIGHTS
from .encodings import Encodings
from .errors import ArtifactError, CanaryError
from .session.session import Session
from .tasks.heads import encode_scored, prepare_late, to_sparse
from .tasks.task_adapters import count_tasks
from .tokenizing.tokenizer import Tokenizer

__all__ = [
    "FURTHER_OUTPUTS",
    "Canary",
    "CanaryResult",
    "check_vectors",
    "comparable",
    "encode_canary",
    "gives_tokens",
    "read_canary",
    "require_session",
    "write_canary",
]

#: Outputs of a graph besides its first one that a canary may have.
FURTHER_OUTPUTS = (TOKEN_WEIGHTS, "token_vectors")

#: Vectors with more elements than this per nonzero element are written sparse.
SPARSE_FROM = 4

#: Most elements of all sparse vectors together, as dense ones: a few numbers in a file must not become gigabytes.
MOST_ELEMENTS = 1 << 27


@dataclass(frozen=True, slots=True)
class Canary:
    """Reference vectors that a loaded artifact must reproduce.

    Attributes:
        texts: the texts as the tokenizer gets them, prompts included.
        encodings: token ids of the texts.
        vectors: the reference, float32, (n, dimension), or (tokens, dimension) for token vectors.
        origin: origin of the vectors, as text for display.
        queries: the first text of each pair, for a reranker; empty for other models.
        further: reference of the graph's further outputs, by name, float32, (tokens, width).
    """

    texts: tuple[str, ...]
    encodings: Encodings
    vectors: NDArray[np.float32]
    origin: str
    queries: tuple[str, ...] = ()
    further: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    def judge(self, vectors: NDArray[np.float32], output: Output, tolerance: Accuracy) -> CanaryResult:
        """Compare the vectors that a session computed from the token ids with the reference.

        Args:
            vectors: the session's vectors, float32, in the shape of the reference.
            output: the model's kind of output.
            tolerance: allowed difference from the reference.
        """
        return check_vectors(
            *comparable(output, vectors, self.vectors), min_cosine=tolerance.min_cosine, max_abs=tolerance.max_abs
        )

    def judge_all(
        self, run: Callable[[str | None], NDArray[np.float32]], output: Output, tolerance: Accuracy
    ) -> CanaryResult:
        """Compare all outputs of a graph with the reference, and return the worst result.

        Args:
            run: returns the values of the token ids for the name of an output; None is the first one.
            output: the model's kind of output.
            tolerance: allowed difference from the reference.
        """
        results = [self.judge(run(None), output, tolerance)]
        for name, reference in self.further.items():
            result = check_vectors(
                *_comparable_tokens(name, run(name), reference),
                min_cosine=tolerance.min_cosine,
                max_abs=tolerance.max_abs,
            )
            results.append(replace(result, reason=f"{name}: {result.reason}" if result.reason else ""))
        return min(results, key=lambda result: (result.passed, result.min_cosine))


@dataclass(frozen=True, slots=True)
class CanaryResult:
    """Result of a session's run on the canary.

    Attributes:
        passed: whether every vector is within the tolerance.
        min_cosine: smallest cosine with the reference.
        max_abs: largest absolute difference of an element.
        reason: description of the values that are out of tolerance; empty if it passed.
    """

    passed: bool
    min_cosine: float
    max_abs: float
    reason: str


def write_canary(path: Path, canary: Canary) -> None:
    """Write the canary as a safetensors file; rows that are mostly zeros are written sparse."""
    tensors: dict[str, NDArray[Any]] = {"ids": canary.encodings.ids, "offsets": canary.encodings.offsets}
    metadata = {"texts": json.dumps(canary.texts, ensure_ascii=True), "origin": canary.origin}
    if canary.vectors.size > SPARSE_FROM * max(int(np.count_nonzero(canary.vectors)), 1):
        tensors["indices"], tensors["values"], tensors["row_offsets"] = to_sparse(canary.vectors)
        metadata["dimension"] = str(canary.vectors.shape[1])
    else:
        tensors["vectors"] = canary.vectors
    tensors |= canary.further
    if canary.queries:
        metadata["queries"] = json.dumps(canary.queries, ensure_ascii=True)
    if canary.queries or canary.encodings.token_types is not None:
        tensors["token_types"] = canary.encodings.types
    # `save_file` would make a file that only its owner can read, and would raise another error for a full disk.
    data = save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, metadata=metadata)
    path.write_bytes(_with_sorted_header(data))


def _with_sorted_header(data: bytes) -> bytes:
    """Return a safetensors file with sorted header keys.

    The library writes them in a random order, and the artifact's digest must not depend on it.
    """
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # aligns the tensors to 8 bytes
    return len(header).to_bytes(8, "little") + header + data[end:]


def read_canary(path: Path) -> Canary:
    """Read a canary.

    Raises:
        ArtifactError: the file is missing, damaged or incomplete.
    """
    try:
        # `safe_open` would hold Python's lock while a file system does not answer, and with it the whole process.
        data = path.read_bytes()
        tensors = load(data)
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__") or {}
        ids, offsets = tensors["ids"], tensors["offsets"]
        vectors = _dense(tensors, int(metadata["dimension"])) if "indices" in tensors else tensors["vectors"]
        texts, queries = (tuple(json.loads(metadata.get(name, "[]"))) for name in ("texts", "queries"))
        origin = metadata["origin"]
        further = {name: tensors[name] for name in FURTHER_OUTPUTS if name in tensors}
        _check_arrays(ids, offsets, vectors, further)
    except (
        OSError,
        SafetensorError,
        KeyError,
        ValueError,
        TypeError,
        IndexError,
        RecursionError,
        OverflowError,
    ) as error:
        raise ArtifactError(f"the canary {path} cannot be read ({error}): convert the checkpoint again") from error
    counts_agree = (
        len(texts) == len(offsets) - 1 and len(vectors) in (len(texts), len(ids)) and len(queries) in (0, len(texts))
    )
    if not texts or not counts_agree:
        raise ArtifactError(
            f"the canary {path} has {len(texts)} texts, {len(offsets) - 1} rows of ids and {len(vectors)} vectors: "
            "the numbers must be equal and not zero. Convert the checkpoint again"
        )
    encodings = Encodings(ids, offsets, np.zeros(len(texts), np.int32), tensors.get("token_types"))
    return Canary(texts, encodings, vectors, origin, queries, further)


def _check_arrays(
    ids: NDArray[Any], offsets: NDArray[Any], vectors: NDArray[Any], further: Mapping[str, NDArray[Any]]
) -> None:
    """Raise a `ValueError` if the arrays of a canary do not fit together."""
    if ids.ndim != 1 or ids.dtype != np.int32 or offsets.ndim != 1 or offsets.dtype != np.int64 or not len(offsets):
        raise ValueError("ids and offsets must be int32 and int64, with one axis")
    if offsets[0] != 0 or offsets[-1] != len(ids) or (np.diff(offsets) < 0).any():
        raise ValueError("the offsets are not those of the ids")
    if vectors.ndim != 2 or vectors.dtype != np.float32:
        raise ValueError("the vectors must be float32, with two axes")
    for name, values in further.items():
        if values.ndim != 2 or values.dtype != np.float32 or len(values) != len(ids):
            raise ValueError(f"{name} must be float32, with a row for each token")


def _dense(tensors: Mapping[str, NDArray[Any]], dimension: int) -> NDArray[np.float32]:
    """Return the dense rows that the sparse tensors of a canary describe, float32, (n, dimension)."""
    counts = np.diff(tensors["row_offsets"])
    if not 0 < dimension * len(counts) <= MOST_ELEMENTS or (counts < 0).any():
        raise ValueError(f"{len(counts)} rows of {dimension} elements are not those of a canary")
    vectors = np.zeros((len(counts), dimension), np.float32)
    vectors[np.repeat(np.arange(len(counts)), counts), tensors["indices"]] = tensors["values"]
    return vectors


def encode_canary(
    tokenizer: Tokenizer, card: ModelCard, texts: Sequence[str], queries: Sequence[str] = ()
) -> Encodings:
    """Tokenize a canary's texts: pairs for a reranker, queries for a ColBERT model, for each task in turn with adapters."""
    if queries:
        return encode_scored(tokenizer, card, queries, texts)
    encodings = tokenizer.encode(texts)
    if card.tasks:  # each adapter, and none; or each route
        numbers = np.arange(len(texts)) % count_tasks(card)
        return replace(encodings, token_types=np.repeat(numbers, encodings.lengths).astype(np.int32))
    if card.late_interaction is None:
        return encodings
    return prepare_late(encodings, tokenizer, card.late_interaction, "query")


def comparable(
    output: Output, vectors: NDArray[np.float32], reference: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return vectors and reference as rows whose cosine is meaningful.

    All scores become one row, because the cosine of two single numbers is 1 or -1. All sparse vectors become one row too,
    because a single one may be all zeros.
    """
    if output not in ("scores", "sparse") or vectors.shape != reference.shape:
        return vectors, reference
    return vectors.reshape(1, -1), reference.reshape(1, -1)


def _comparable_tokens(
    name: str, values: NDArray[np.float32], reference: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return a further output and its reference as rows whose cosine is meaningful: all weights of tokens are one row."""
    if name != TOKEN_WEIGHTS or values.shape != reference.shape:
        return values, reference
    rows = values.reshape(1, -1), reference.reshape(1, -1)
    if reference.any():
        return rows
    # A cosine with zeros says nothing. With a one in both rows, other weights than zeros have a smaller one.
    first, second = (np.append(row, np.ones((1, 1), np.float32), axis=1) for row in rows)
    return first, second


def check_vectors(
    vectors: NDArray[np.float32], reference: NDArray[np.float32], *, min_cosine: float, max_abs: float | None
) -> CanaryResult:
    """Compare a session's vectors with the canary's.

    Args:
        vectors: the session's vectors, float32, (n, dimension).
        reference: the canary's vectors, float32, (n, dimension).
        min_cosine: smallest cosine that is allowed.
        max_abs: largest absolute difference of an element that is allowed; None checks only the cosine.
    """
    if vectors.shape != reference.shape:
        return CanaryResult(False, -1.0, float("inf"), f"shape {vectors.shape} instead of {reference.shape}")
    if not np.isfinite(vectors).all():
        return CanaryResult(False, -1.0, float("inf"), "a vector holds NaN or infinity")
    ours, theirs = vectors.astype(np.float64), reference.astype(np.float64)
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    cosine = float(np.min(np.sum(ours * theirs, axis=1) / np.maximum(norms, np.finfo(np.float64).tiny)))
    difference = float(np.abs(ours - theirs).max())
    reasons = []
    # `not cosine >= min_cosine` is also true for NaN in the reference; `cosine < min_cosine` would not be.
    if not cosine >= min_cosine:
        reasons.append(f"cosine {cosine:.9f}, at least {min_cosine} required")
    if max_abs is not None and not difference <= max_abs:
        reasons.append(f"max abs difference {difference:.2e}, at most {max_abs:.0e} allowed")
    return CanaryResult(not reasons, cosine, difference, "; ".join(reasons))


def gives_tokens(tokenizer: Tokenizer, card: ModelCard, canary: Canary) -> bool:
    """Return whether a tokenizer gives the token ids of the canary."""
    encodings, expected = encode_canary(tokenizer, card, canary.texts, canary.queries), canary.encodings
    return all(
        np.array_equal(getattr(encodings, part), getattr(expected, part)) for part in ("ids", "offsets", "types")
    )


def require_session(session: Session, canary: Canary, output: Output, tolerance: Accuracy) -> None:
    """Check one session with the canary's token ids, for example on a GPU that returns to service.

    Args:
        session: the session to check.
        canary: the artifact's canary.
        output: the model's kind of output.
        tolerance: allowed difference from the reference.

    Raises:
        CanaryError: the session does not reproduce the reference.
        ProviderError: the session failed, as in its `run`.
    """

    def run(name: str | None) -> NDArray[np.float32]:
        return session.run(canary.encodings, name).astype(np.float32, copy=False)

    result = canary.judge_all(run, output, tolerance)
    if not result.passed:
        raise CanaryError(f"a session on {session.provider} does not reproduce its canary: {result.reason}")
