"""`ModelCard`: published settings of a model, and the sources of its files; neither fetching nor running."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, get_args

import msgspec

__all__ = [
    "INPUT_TYPES",
    "INPUT_TYPE_SYNONYMS",
    "RAW",
    "SIMILARITIES",
    "LateInteraction",
    "LogitScore",
    "ModelCard",
    "Output",
    "PairParts",
    "PairTemplate",
    "PoolingMode",
    "QueryExpansion",
    "Similarity",
    "StaticQueries",
    "TokenHeads",
]

#: sentence-transformers' names of its pooling modes (`pooling_mode_*` in `1_Pooling/config.json`).
PoolingMode = Literal["cls", "mean", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]

#: Output of a model: one vector per text, scores of a pair of texts (rerankers), weights of the vocabulary's tokens (SPLADE),
#: or one vector per token (ColBERT).
Output = Literal["vectors", "scores", "sparse", "token_vectors"]

#: sentence-transformers' names of the functions that compare two vectors, then those for two lists of token vectors.
Similarity = Literal["cosine", "dot", "euclidean", "manhattan", "maxsim", "meanmaxsim"]
SIMILARITIES: tuple[Similarity, ...] = get_args(Similarity)

#: Input types of every model; if a model has no prompt for one, the text stays as it is.
INPUT_TYPES = ("query", "document", "clustering", "classification")

#: Names of input types in Cohere's API, of Jina's tasks, and in NVIDIA NIM's API. A prompt of the card with such a name has
#: precedence.
INPUT_TYPE_SYNONYMS: Mapping[str, str] = MappingProxyType(
    {
        "search_query": "query",
        "search_document": "document",
        "retrieval.query": "query",
        "retrieval.passage": "document",
        "passage": "document",
        "separation": "clustering",
    }
)

#: Input type that never adds a prompt.
RAW = "raw"


class Accuracy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Accuracy that a precision must reach against the HuggingFace model in float32, over all texts.

    Attributes:
        min_cosine: smallest cosine between a vector and its reference.
        max_abs: largest absolute difference of an element; None if only the angle matters.
    """

    min_cosine: float
    max_abs: float | None = None


class QueryExpansion(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """ColBERT's query expansion: short queries are filled with mask tokens, whose vectors count like the others.

    Attributes:
        token: filling token.
        length: tokens of a filled query, special ones included.
        attended: whether the query's own tokens attend to the filling ones.
    """

    token: str
    length: int
    attended: bool = False


class LateInteraction(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of a ColBERT model that differ between queries and documents, besides prompts.

    Attributes:
        query_tokens: longest query, special tokens included.
        document_tokens: longest document.
        expansion: query expansion, if the model has one.
        skipped: tokens whose vectors are left out.
        skipped_in: inputs to which `skipped` applies.
    """

    query_tokens: int
    document_tokens: int
    expansion: QueryExpansion | None = None
    skipped: tuple[str, ...] = ()
    skipped_in: tuple[Literal["query", "document"], ...] = ("document",)


class PairParts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Beginnings of the two texts of a pair, in a template whose parts are tokenized one by one (FlagEmbedding).

    Attributes:
        query: text before the query, tokenized with it.
        document: text before the document, tokenized with it.
    """

    query: str
    document: str


class PairTemplate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Text around a pair, which a reranker reads as one text: its chat template, with the instruction in it.

    Attributes:
        before: text before the first text of the pair.
        between: text between the two.
        after: text after the second one; it stays whole where a pair is too long.
        query_first: whether the query is the first text.
        parts: beginnings of the two texts, if the five parts are tokenized one by one: `before`, the query, `between`, the
            document and `after`. If missing, all of it is tokenized as one text. The key is left out for other models.
    """

    before: str
    between: str
    after: str
    query_first: bool = True
    parts: PairParts | msgspec.UnsetType = msgspec.UNSET


class LogitScore(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Score of a reranker that is a language model: a logit of the token after the pair, or a difference of two.

    Attributes:
        true_token: id of the token that says that the document is relevant.
        false_token: id of the token that says the opposite, whose logit is subtracted; None if there is none.
        template: text around a pair; None if the tokenizer puts the two texts together.
    """

    true_token: int
    false_token: int | None = None
    template: PairTemplate | None = None


class TokenHeads(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Outputs of BGE-M3 besides its vectors: weights of tokens (`sparse`), and vectors of tokens (`token_vectors`).

    Attributes:
        unweighted: tokens without a weight: those that begin, end and fill a text, and the unknown one.
    """

    unweighted: tuple[str, ...]


class StaticQueries(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Queries that need no encoder, of a SPLADE model or an embedder.

    Each token that a query has gets its own weight (SPLADE), or a query's vector is the mean of its tokens' vectors, scaled
    to L2 norm 1 if the card says so of vectors.

    Attributes:
        max_tokens: longest query in tokens; it has no special ones. None means that nothing limits it.
        others: whether texts of other input types than `query` and `document` are read like queries.
    """

    max_tokens: int | None = None
    others: bool = False


class ModelCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Published settings of a model.

    Attributes:
        name: the zoo's name, also the default name under which it is served.
        family: `model_type` of the checkpoint's `config.json`.
        dimension: length of a vector; of scores their number, of sparse vectors the vocabulary's size.
        max_tokens: longest input, special tokens included.
        pooling: pooling modes, whose vectors are concatenated; empty for outputs other than `vectors`.
        normalize: whether vectors have L2 norm 1.
        license: SPDX identifier.
        sources: sources of the files, in the order of trial: `hf:org/name`, `pypi:dist==version[,dist==version…]`.
        revision: hub commit of the sources.
        prompts: prefix by input type; a standard input type without one gets none.
        matryoshka: shorter dimensions that the model was trained for, largest first.
        layer_norm_before_truncation: whether a layer norm without weights comes before a Matryoshka cut (Nomic).
        sha256: hex digest by file name, for the files that the card pins.
        accuracy: accuracy that each precision must reach.
        aliases: other names of the model.
        output: output of the model.
        labels: names of the scores.
        activation: function from logits to scores, by torch's name in lower case.
        late_interaction: settings of a ColBERT model.
        similarity: function that the model's authors compare its vectors with. Where none is named the key is left out of the
            encoded card, of which artifacts' digests are made.
        default_prompt: name of the prompt that sentence-transformers' `encode` adds if none is named. Where there is none the
            key is left out of the encoded card.
        logit_score: score of a reranker that is a language model. The key is left out for other models.
        token_heads: outputs of an embedder besides its vectors. The key is left out for other models.
        static_queries: queries that need no encoder, of a SPLADE model or an embedder. The key is left out for other models.
        include_prompt: False if the tokens of a prompt are left out of the pooling. The key is left out for other models.
        input_type: the only input type that the weights are for, besides `raw`: those of a task's adapter. The key is left
            out for other models.
        tasks: number of the adapter in the graphs by input type, and `raw` has none; or number of the route by input type,
            `raw` included. The key is left out for other models.
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
    similarity: Similarity | msgspec.UnsetType = msgspec.UNSET
    default_prompt: str | msgspec.UnsetType = msgspec.UNSET
    logit_score: LogitScore | msgspec.UnsetType = msgspec.UNSET
    token_heads: TokenHeads | msgspec.UnsetType = msgspec.UNSET
    static_queries: StaticQueries | msgspec.UnsetType = msgspec.UNSET
    include_prompt: bool | msgspec.UnsetType = msgspec.UNSET
    input_type: str | msgspec.UnsetType = msgspec.UNSET
    tasks: Mapping[str, int] | msgspec.UnsetType = msgspec.UNSET
