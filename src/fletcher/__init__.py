"""Fletcher: text-embedding checkpoints to verified ONNX artifacts, and servers for them.

>>> from fletcher import Encoder
>>> encoder = Encoder.load("all-MiniLM-L6-v2.fletcher")
>>> encoder.embed(["a text", "another"], input_type="query").vectors.shape
(2, 384)

- `Encoder` loads an artifact and embeds texts; `LoadOptions` and `EmbedOptions` are its options, `Embeddings` is its result.
- `export` converts a checkpoint, `verify` compares an artifact with HuggingFace, `quantize` writes a smaller artifact.
- `fletcher.serve` has the server; `fletcher.runtime.errors` has the errors.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fletcher.runtime import Embeddings, EmbedOptions, Encoder, LoadOptions

if TYPE_CHECKING:
    from fletcher.convert.export.export import export
    from fletcher.convert.verify.verify import verify
    from fletcher.quantize.quantized_artifact import quantize

__all__ = [
    "EmbedOptions",
    "Embeddings",
    "Encoder",
    "LoadOptions",
    "__version__",
    "export",
    "quantize",
    "verify",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import what converts at its first use: it needs onnx, which a server does not.

    Raises:
        AttributeError: the package does not export the name.
    """
    if name == "quantize":
        return import_module("fletcher.quantize")  # the package itself can be called, see there
    if name in ("export", "verify"):
        return getattr(import_module(f"fletcher.convert.{name}.{name}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
