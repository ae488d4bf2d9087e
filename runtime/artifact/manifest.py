"""`fletcher.json`, the manifest of an artifact, as structs. It reads and writes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from fletcher.model_zoo.card import Accuracy, ModelCard

from .memory_shape import MemoryShape

__all__ = [
    "FORMAT_VERSION",
    "HALF_VECTORS",
    "TOKEN_OUTPUTS",
    "TOKEN_STATES",
    "FeedRules",
    "FileInfo",
    "Manifest",
    "Origin",
    "Profile",
    "Target",
    "TensorInfo",
    "Variant",
    "Verification",
]

FORMAT_VERSION = 1

#: The second output of `cpu` graphs that average token vectors: the last hidden states, (tokens, hidden).
TOKEN_STATES = "token_states"

#: The second output of `cuda` graphs of embedders: the vectors in half precision, cast where they were computed.
HALF_VECTORS = "vectors_float16"

#: Outputs with a row a token; every other one has a row a text.
TOKEN_OUTPUTS = frozenset({"token_vectors", TOKEN_STATES})

Target = Literal["cpu", "cuda", "tensorrt", "coreml"]


class FileInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of the artifact.

    Attributes:
        size: bytes.
        sha256: hex digest.
    """

    size: int
    sha256: str


class TensorInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An input or output of a graph.

    Attributes:
        name: the graph's name for it.
        dtype: numpy's name of the element type.
        shape: sizes, or names where a size is free.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class FeedRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Rules by which the host makes a graph's inputs, besides the inputs' names and types.

    Attributes:
        padding_id: RoBERTa's way of counting positions: tokens of this id are not counted and have the position of this
            number, the first counted one has the next.
        multiple: the longest text of a batch is rounded up to a multiple of this.
        shape: texts and tokens of the rectangle, where the graph takes no other.
        tables: by input, the tensor of the weights file whose rows the host looks up.
        unseen_tail: tokens of this id at a text's end are attended to by none, so that the mask leaves them out (ColBERT's
            expansion).
    """

    padding_id: int | None = None
    multiple: int = 1
    shape: tuple[int, int] | None = None
    tables: Mapping[str, str] = {}
    unseen_tail: int | None = None


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Shapes by input that a TensorRT engine is built for.

    Attributes:
        min: smallest.
        opt: what it is tuned for.
        max: largest.
    """

    min: Mapping[str, tuple[int, ...]]
    opt: Mapping[str, tuple[int, ...]]
    max: Mapping[str, tuple[int, ...]]


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One graph of an artifact.

    Attributes:
        name: `TARGET-PRECISION`.
        target: which emitter wrote it.
        precision: of its weights and arithmetic.
        file: the graph.
        weights: the file that holds its weights.
        inputs: what it eats.
        outputs: what it gives.
        tolerance: how far from the canary a session of it may be.
        instructions: processor features it needs, as in /proc/cpuinfo; `a|b` is either.
        exporter: `fletcher` for an authored graph, otherwise the tracer's name.
        measured: its figures against HuggingFace in float32, once it was verified.
        canary: whether it passed when it was exported; `unchecked` where the machine could not run its target.
        arithmetic: what its nodes compute in, where that is not `precision`.
        islands: nodes of the encoder that compute in fp32 because a half type would overflow. What follows the encoder
            (pooling, projections, normalization) is fp32 in every variant.
        feeds: how its inputs are made.
        profiles: shapes to build engines for (tensorrt).
        memory: what a batch needs at its peak; None if that is not known (traced graphs).
        recipe: the recipe that quantized it, as JSON; None for what `convert` wrote.
        batch_dependent: whether a text's vector depends on the other texts of its batch.
    """

    name: str
    target: Target
    precision: str
    file: str
    weights: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    tolerance: Accuracy
    instructions: tuple[str, ...] = ()
    exporter: str = "fletcher"
    measured: Mapping[str, float] = {}
    canary: Literal["passed", "unchecked"] = "passed"
    arithmetic: str | None = None
    islands: tuple[str, ...] = ()
    feeds: FeedRules = FeedRules()
    profiles: tuple[Profile, ...] = ()
    memory: MemoryShape | None = None
    recipe: Mapping[str, Any] | None = None
    batch_dependent: bool = False


class Origin(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The checkpoint that an artifact was made from.

    Attributes:
        source: what `fletcher-convert model export` was given, in its canonical form.
        revision: the hub commit, if it came from there.
        sha256: hex digest by file name.
    """

    source: str
    revision: str | None
    sha256: Mapping[str, str]


class Verification(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Comparison of the artifact with the reference model.

    Attributes:
        reference: what it was compared with.
        time: UTC, ISO 8601.
        texts: how many texts were compared.
        tools: versions by package.
        figures: figures by variant name.
    """

    reference: str
    time: str
    texts: int
    tools: Mapping[str, str]
    figures: Mapping[str, Mapping[str, float]]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`fletcher.json`.

    Attributes:
        format: version of this format.
        card: what the model is.
        origin: the checkpoint.
        variants: the graphs.
        files: every other file of the folder, by name.
        canary_reference: `published` if the canary's vectors come from the model's card, `own` if the fp32 graph made
            them, in which case the artifact is unverified until `verified` is there.
        verified: the last successful comparison with the reference model.
        parent: digest of the artifact that this one was made from, if any.
        tools: versions by package, of what wrote it.
        maxima: by value of the fp32 graph, the largest absolute element on the calibration texts, recorded where a half
            precision was asked for; `#squares` after a norm's name is the largest sum of squares of a row that it norms.
    """

    format: int
    card: ModelCard
    origin: Origin
    variants: tuple[Variant, ...]
    files: Mapping[str, FileInfo]
    canary_reference: Literal["published", "own"]
    verified: Verification | None = None
    parent: str | None = None
    tools: Mapping[str, str]
    maxima: Mapping[str, float] = {}

    @property
    def status(self) -> Literal["verified", "published canary", "unverified"]:
        """Degree of verification: compared with HuggingFace, with the card's published vectors only, or with nothing."""
        if self.verified is not None:
            return "verified"
        return "published canary" if self.canary_reference == "published" else "unverified"
