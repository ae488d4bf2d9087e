"""Reasons why Fletcher does not convert some of sentence-transformers' modules, each with the next step."""

from __future__ import annotations

__all__ = ["explain_module"]

_BRANCH = (
    "python -c \"from sentence_transformers import SentenceTransformer as S; m = S('FOLDER'); "
    "S(modules=[*m[0].sub_modules['document'], *list(m)[1:]]).save('DOCUMENT')\""
)
_ROUTER = (
    "sends queries and documents through different modules, and Fletcher converts one encoder at a time. Save each branch "
    f"that has a Transformer as a model of its own, and convert that: {_BRANCH}"
)
_STATIC = (
    "adds up rows of a table of word vectors: it has no encoder that a graph would make faster, so Fletcher does not convert "
    "it. sentence-transformers and model2vec run it as it is"
)
_WORDS = (
    "is for models without a transformer, which Fletcher does not convert: sentence-transformers runs them as they are"
)

_REASONS = {
    "Asym": _ROUTER,
    "BoW": _WORDS,
    "CLIPModel": "reads images too, and Fletcher converts encoders of texts",
    "CNN": _WORDS,
    "LSTM": _WORDS,
    "Router": _ROUTER,
    "SparseAutoEncoder": "makes sparse vectors of dense ones: of sparse models, Fletcher converts SPLADE alone",
    "SparseStaticEmbedding": _STATIC,
    "WordEmbeddings": _WORDS,
    "WordWeights": _WORDS,
}


def explain_module(kind: str) -> str | None:
    """Return why a module of sentence-transformers is not converted, as the rest of a sentence about it, if that is known."""
    return _REASONS.get(kind)
