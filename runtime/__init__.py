"""Execution of models: artifacts, tokenizers, batches, sessions, and the `Encoder` that combines them."""

from .artifact.folder import Artifact
from .artifact.manifest import Variant
from .encoder import Encoder
from .encodings import Embeddings, Encodings
from .options.embed import EmbedOptions
from .options.load import LoadOptions
from .tasks.further_outputs import TextOutputs
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
    "TextOutputs",
    "TokenEmbeddings",
    "Variant",
]
