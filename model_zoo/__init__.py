"""Models: their cards, and the sources of their files. The package imports nothing else of Fletcher."""

from .card import INPUT_TYPES, RAW, ModelCard, Output, PoolingMode
from .catalog import CatalogModel, Figure, find_model, list_models
from .progress import SILENT, Counter, Progress
from .sentence_transformers.heads import HEADS, Head
from .sentence_transformers.read_card import read_card
from .sources.fetch import Checkout, fetch
from .zoo import canary_path, list_cards, load_card

__all__ = [
    "HEADS",
    "INPUT_TYPES",
    "RAW",
    "SILENT",
    "CatalogModel",
    "Checkout",
    "Counter",
    "Figure",
    "Head",
    "ModelCard",
    "Output",
    "PoolingMode",
    "Progress",
    "canary_path",
    "fetch",
    "find_model",
    "list_cards",
    "list_models",
    "load_card",
    "read_card",
]
