"""How a model runs: artefacts, tokenising, batches, sessions, and the `Encoder` that joins them."""

from .artifact import Artifact
from .encoder import Encoder
from .encodings import Embeddings, Encodings
from .heads import Scores, SparseEmbeddings, TokenEmbeddings
from .manifest import Variant

__all__ = [
    "Artifact",
    "Embeddings",
    "Encoder",
    "Encodings",
    "Scores",
    "SparseEmbeddings",
    "TokenEmbeddings",
    "Variant",
]
