"""What a model is: cards, and where its files come from. It imports nothing else of Fletcher."""

from .card import INPUT_TYPES, RAW, ModelCard, PoolingMode
from .loader import canary_path, list_cards, load_card
from .progress import Progress
from .sentence_transformers import read_card
from .sources import Checkout, fetch

__all__ = [
    "INPUT_TYPES",
    "RAW",
    "Checkout",
    "ModelCard",
    "PoolingMode",
    "Progress",
    "canary_path",
    "fetch",
    "list_cards",
    "load_card",
    "read_card",
]
