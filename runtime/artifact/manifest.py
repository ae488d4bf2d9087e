"""`Manifest`: the content of an artifact's `fletcher.json`, as structs."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from fletcher.model_zoo.card import Accuracy, ModelCard

from .calibration import Calibration
from .memory_shape import MemoryShape

__all__ = [
    "FORMAT_VERSION",
    "HALF_VECTORS",
    "LEFT_OUT",
    "TOKEN_OUTPUTS",
    "TOKEN_STATES",
    "TOKEN_WEIGHTS",
    "Content",
    "FeedRules",
    "FileInfo",
    "Manifest",
    "Origin",
    "Profile",
    "Proof",
    "Target",
    "TensorInfo",
    "Variant",
    "Verification",
]

FORMAT_VERSION = 1

#: Name of the second output of `cpu` graphs with mean pooling: the last hidden states, (tokens, hidden).
TOKEN_STATES = "token_states"

#: Name of an output of BGE-M3's graphs: the weight of each token in the sparse vector, (tokens, 1).
TOKEN_WEIGHTS = "token_weights"

#: Name of the second output of an embedder's `cuda` graphs: the vectors in half precision, cast on the GPU.
HALF_VECTORS = "vectors_float16"

#: Outputs with one row per token; all other outputs have one row per text.
TOKEN_OUTPUTS = frozenset({"token_vectors", TOKEN_STATES, TOKEN_WEIGHTS})

#: Proof of an artifact's vectors: compared with the reference model on many texts; a canary whose vectors the authors' model
#: computed; or only a canary that the artifact's own graph computed.
Proof = Literal["verified", "published", "self-made"]

Target = Literal["cpu", "cuda", "tensorrt", "coreml"]

#: Fields of the manifest that are written only where they differ from their default.
LEFT_OUT = ("ignored_keys", "tokenizer_like", "strips_texts", "content", "calibration", "checksum")


_PROOFS: Mapping[str, str] = MappingProxyType(
    {
        "published": "published: the canary's vectors were computed by the authors' model",
        "self-made": "self-made: the artifact's own graph computed the canary, which shows later damage, no earlier mistake",
    }
)


class FileInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Size and digest of one file of the artifact.

    Attributes:
        size: size in bytes.
        sha256: sha256 as a hex digest.
    """

    size: int
    sha256: str


class TensorInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An input or output of a graph.

    Attributes:
        name: name of the input or output in the graph.
        dtype: numpy's name of the element type.
        shape: size of each axis, or a name if the size is not fixed.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class FeedRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Rules by which the host makes a graph's inputs, besides the inputs' names and types.

    Attributes:
        padding_id: token id of RoBERTa's position counting: a token of this id is not counted, and its position is this
            number; the first counted token has the position after it. None counts all tokens from 0.
        multiple: the length of a padded batch is rounded up to a multiple of this number of tokens.
        shape: number of texts and of tokens per text, if the graph has a fixed shape; else None.
        tables: name of a tensor in the weights file, by input name. The host looks up the input's rows in that tensor.
        unseen_tail: token id; no token attends to tokens of this id at a text's end, so the mask leaves them out (ColBERT's
            expansion).
    """

    padding_id: int | None = None
    multiple: int = 1
    shape: tuple[int, int] | None = None
    tables: Mapping[str, str] = {}
    unseen_tail: int | None = None


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Range of input shapes that a TensorRT engine is built for.

    Attributes:
        min: smallest shape, by input name.
        opt: shape that the engine is optimized for, by input name.
        max: largest shape, by input name.
    """

    min: Mapping[str, tuple[int, ...]]
    opt: Mapping[str, tuple[int, ...]]
    max: Mapping[str, tuple[int, ...]]


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One graph of an artifact.

    Attributes:
        name: `TARGET-PRECISION`, for example `cpu-fp32`.
        target: kind of graph, made for one or more providers.
        precision: type of its weights, and of its arithmetic unless `arithmetic` is set.
        file: name of the graph's file.
        weights: name of the file that holds its weights.
        inputs: inputs of the graph.
        outputs: outputs of the graph; the first one is the default.
        tolerance: allowed difference of its vectors from the canary's.
        instructions: processor features that it needs, named as in /proc/cpuinfo; `a|b` means one of the two.
        exporter: `fletcher` for a graph that Fletcher wrote, otherwise the name of the tracer.
        measured: figures of the comparison with HuggingFace in float32, and `providers_max_abs`, the largest difference of
            an element between two providers. Before a verification, only `batch_max_abs` of the canary, alone and together.
        canary: `passed` if it passed the canary at export; `unchecked` if the exporting machine could not run its target.
        arithmetic: type in which its nodes compute, if that is not `precision`; else None.
        islands: nodes of the encoder that compute in fp32, because a half type would overflow or a device's kernel for it is
            not exact enough. The nodes after the encoder (pooling, projections, normalization) are fp32 in every variant.
        feeds: rules by which its inputs are made.
        profiles: shape ranges to build engines for (only tensorrt).
        memory: peak memory of a batch; None if it is not known (traced graphs).
        recipe: the recipe that quantized it, as JSON; None for a variant that `convert` wrote.
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
        source: SOURCE argument of `fletcher-convert model export`, in its canonical form.
        revision: commit on the hub; None if the checkpoint is not from the hub.
        sha256: hex digest of each file, by file name.
    """

    source: str
    revision: str | None
    sha256: Mapping[str, str]


class Verification(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Comparison of the artifact with the reference model.

    Attributes:
        reference: the model that it was compared with, as text for display.
        time: time of the comparison, UTC, ISO 8601.
        texts: number of compared texts.
        tools: package versions, by package name.
        figures: figures of the comparison, by variant name.
        by: packages and classes that computed the reference, in words; empty for artifacts of earlier versions.
        not_checked: settings of the checkpoint that no text exercised.
    """

    reference: str
    time: str
    texts: int
    tools: Mapping[str, str]
    figures: Mapping[str, Mapping[str, float]]
    by: str = ""
    not_checked: tuple[str, ...] = ()


class Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Digests of what decides an artifact's vectors. They are made of content, so a later export has the same ones.

    Attributes:
        weights: sha256 of the checkpoint's tensors: names, shapes, and values in float32.
        graph: sha256 of the description of the layers and modules that the graphs compute.
        tokenizer: sha256 of the tokenizer's content, without the keys that change no token id.
        token_heads: sha256 of the further outputs' weights and modules, which decide no vector of a text; empty if the graphs
            have none.
    """

    weights: str
    graph: str
    tokenizer: str
    token_heads: str = ""


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Manifest of an artifact, the content of `fletcher.json`.

    A field of `LEFT_OUT` is not in the file while it has its default.

    Attributes:
        format: version of the artifact format.
        card: the model's card.
        origin: the checkpoint that was converted.
        variants: the graphs.
        files: size and digest of every other file of the folder, by file name.
        canary_reference: `published` if the canary's vectors come from the model's card, `own` if the fp32 graph computed
            them. Such a canary proves that the vectors stay the same, not that they are right.
        verified: the last successful comparison with the reference model; None if there was none.
        parent: digest of the artifact that this one was made from; None if it was made from a checkpoint.
        tools: versions of the packages that wrote it, by package name.
        maxima: largest absolute element on the calibration texts, by value name of the fp32 graph. It is recorded if a half
            precision was requested. A norm's name with the suffix `#squares` has the largest sum of squares of an input row.
        ignored_keys: keys and files of the checkpoint that were ignored on the user's word.
        tokenizer_like: `transformers 4` or `transformers 5`: version whose token ids the tokenizer gives where the two
            differ; None for an artifact from before this field.
        strips_texts: whether the blanks around a text are removed, as sentence-transformers 5 and older do. It is set only
            where that changes token ids.
        content: digests of what decides the vectors; None for an artifact from before this field.
        calibration: function from similarities to probabilities; None if the artifact was not calibrated.
        checksum: sha256 of the other fields in the file. `Artifact.open` compares it and leaves None; None in the file is an
            artifact from before this field.
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
    ignored_keys: tuple[str, ...] = ()
    tokenizer_like: str | None = None
    strips_texts: bool = False
    content: Content | None = None
    calibration: Calibration | None = None
    checksum: str | None = None

    @property
    def status(self) -> Proof:
        """Return the origin of the canary: how far the artifact's vectors are proven.

        A comparison that names no reference packages (`by`) was made by an earlier version with Fletcher's own restatement of
        the reference, which proves nothing about settings that both ignored.
        """
        if self.verified is not None and self.verified.by:
            return "verified"
        return "published" if self.canary_reference == "published" else "self-made"

    @property
    def proof(self) -> str:
        """Return the origin of the canary in words: by what, when, on how many texts, with which versions it was verified."""
        if self.verified is None or not self.verified.by:
            return _PROOFS[self.status]
        tools = ", ".join(f"{name} {version}" for name, version in self.verified.tools.items())
        return f"verified by {self.verified.by} on {self.verified.texts} texts, {self.verified.time} ({tools})"
