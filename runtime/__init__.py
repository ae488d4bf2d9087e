"""How a model runs: artefacts, tokenising, batches, sessions, and the `Encoder` that joins them."""

from .encodings import Embeddings, Encodings

__all__ = ["Embeddings", "Encodings"]
