"""How a model runs: artifacts, tokenizing, batches, sessions, and the `Encoder` that joins them."""

from .artifact.folder import Artifact
from .artifact.manifest import Variant
from .encoder import Encoder
from .encodings import Embeddings, Encodings
from .tasks.heads import Scores, SparseEmbeddings, TokenEmbeddings

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
