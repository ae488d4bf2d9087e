"""`SentenceTransformer` over Fletcher's `Encoder`, for scripts that change one import."""

from .model import SentenceTransformer

__all__ = ["SentenceTransformer"]
