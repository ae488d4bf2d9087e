"""Reasons why Fletcher does not convert some of sentence-transformers' modules, each with the next step."""

from __future__ import annotations

__all__ = ["explain_module"]

_STATIC = (
    "adds up rows of a table of word vectors: it has no encoder that a graph would make faster, so Fletcher does not convert "
    "it. sentence-transformers and model2vec run it as it is"
)
_WORDS = (
    "is for models without a transformer, which Fletcher does not convert: sentence-transformers runs them as they are"
)

_REASONS = {
    "BoW": _WORDS,
    "CLIPModel": "reads images too, and Fletcher converts encoders of texts",
    "CNN": _WORDS,
    "LSTM": _WORDS,
    "SparseAutoEncoder": "makes sparse vectors of dense ones: of sparse models, Fletcher converts SPLADE alone",
    "SparseStaticEmbedding": _STATIC,
    "WordEmbeddings": _WORDS,
    "WordWeights": _WORDS,
}


def explain_module(kind: str) -> str | None:
    """Return why a module of sentence-transformers is not converted, as the rest of a sentence about it, if that is known."""
    return _REASONS.get(kind)
