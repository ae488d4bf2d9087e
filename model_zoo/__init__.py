"""What a model is: cards, and where its files come from. It imports nothing else of Fletcher."""

from .card import INPUT_TYPES, RAW, ModelCard, Output, PoolingMode
from .heads import HEADS, Head
from .loader import canary_path, list_cards, load_card
from .progress import Progress
from .sentence_transformers import read_card
from .sources import Checkout, fetch

__all__ = [
    "HEADS",
    "INPUT_TYPES",
    "RAW",
    "Checkout",
    "Head",
    "ModelCard",
    "Output",
    "PoolingMode",
    "Progress",
    "canary_path",
    "fetch",
    "list_cards",
    "load_card",
    "read_card",
]
