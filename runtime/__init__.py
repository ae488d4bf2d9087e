"""How a model runs: artifacts, tokenizing, batches, sessions, and the `Encoder` that joins them."""

from .artifact.folder import Artifact
from .artifact.manifest import Variant
from .embed_options import EmbedOptions
from .encoder import Encoder
from .encodings import Embeddings, Encodings
from .load_options import LoadOptions
from .tasks.heads import Scores, SparseEmbeddings, TokenEmbeddings

__all__ = [
    "Artifact",
    "EmbedOptions",
    "Embeddings",
    "Encoder",
    "Encodings",
    "LoadOptions",
    "Scores",
    "SparseEmbeddings",
    "TokenEmbeddings",
    "Variant",
]
