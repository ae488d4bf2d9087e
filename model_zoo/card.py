"""What a model *is*: the card. It knows where a model's files come from, not how they are fetched or run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

__all__ = ["INPUT_TYPES", "RAW", "LateInteraction", "ModelCard", "Output", "PoolingMode", "QueryExpansion"]

#: sentence-transformers' names of its pooling modes (`pooling_mode_*` in `1_Pooling/config.json`).
PoolingMode = Literal["cls", "mean", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]

#: What a model gives of a text: one vector, scores of a pair of texts (rerankers), weights of the vocabulary's tokens
#: (SPLADE), or one vector a token (ColBERT).
Output = Literal["vectors", "scores", "sparse", "token_vectors"]

#: The input types that every model understands; a model without a prompt for one gets the text as it is.
INPUT_TYPES = ("query", "document", "clustering", "classification")

#: The input type that never adds a prompt.
RAW = "raw"


class Accuracy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How close to the HuggingFace model in float32 a precision must be, over every text.

    Attributes:
        min_cosine: smallest cosine between a vector and its reference.
        max_abs: largest absolute difference of an element, or None where only the angle matters.
    """

    min_cosine: float
    max_abs: float | None = None


class QueryExpansion(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """ColBERT's way of filling short queries up with mask tokens, whose vectors count like the others.

    Attributes:
        token: which token fills.
        length: tokens that a query is filled up to, special ones included.
        attended: whether the query's own tokens see the filling ones.
    """

    token: str
    length: int
    attended: bool = False


class LateInteraction(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a ColBERT model does differently with queries and documents, besides their prompts.

    Attributes:
        query_tokens: longest query, special tokens included.
        document_tokens: longest document.
        expansion: how queries are filled up, if they are.
        skipped: tokens whose vectors are left out.
        skipped_in: of which of `query` and `document`.
    """

    query_tokens: int
    document_tokens: int
    expansion: QueryExpansion | None = None
    skipped: tuple[str, ...] = ()
    skipped_in: tuple[Literal["query", "document"], ...] = ("document",)


class ModelCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A model's published settings.

    Attributes:
        name: the zoo's name, also the default name under which it is served.
        family: `model_type` of the checkpoint's `config.json`.
        dimension: length of a vector; of scores their number, of sparse vectors the vocabulary's size.
        max_tokens: longest input, special tokens included.
        pooling: how token vectors become one; several modes are concatenated. Empty where the output is no vector a text.
        normalize: whether vectors have L2 norm 1.
        license: SPDX identifier.
        sources: where the files come from, in the order of trial: `hf:org/name`, `pypi:dist==version[,dist==version…]`.
        revision: the hub commit that the sources were read at.
        prompts: prefix by input type; a standard input type without one gets none.
        matryoshka: shorter dimensions that the model was trained for, largest first.
        layer_norm_before_truncation: whether a layer norm without weights comes before a Matryoshka cut (Nomic).
        sha256: hex digest by file name, for the files that the card pins.
        accuracy: what each precision must reach against HuggingFace in float32.
        aliases: other names under which people ask for it.
        output: what it gives of a text.
        labels: names of the scores.
        activation: what turned the logits into scores, by torch's name of it in lower case.
        late_interaction: for `token_vectors`.
    """

    name: str
    family: str
    dimension: int
    max_tokens: int
    pooling: tuple[PoolingMode, ...]
    normalize: bool
    #: Files call it `licence`: artifacts' digests are made of the encoded card, so the key stays.
    license: str = msgspec.field(name="licence")
    sources: tuple[str, ...] = ()
    revision: str | None = None
    prompts: Mapping[str, str] = {}
    matryoshka: tuple[int, ...] = ()
    layer_norm_before_truncation: bool = False
    sha256: Mapping[str, str] = {}
    accuracy: Mapping[str, Accuracy] = {}
    aliases: tuple[str, ...] = ()
    output: Output = "vectors"
    labels: tuple[str, ...] = ()
    activation: Literal["identity", "sigmoid"] | None = None
    late_interaction: LateInteraction | None = None
