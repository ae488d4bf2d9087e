"""Further outputs of BGE-M3: settings of its weights of tokens and vectors of tokens. It reads no tensor.

Source: FlagEmbedding, `EncoderOnlyEmbedderM3Runner.get_model` for the files, and `M3Embedder.encode_single_device` for the
tokens without a weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec

from ..card import TokenHeads
from .files import special_token_texts

__all__ = ["TOKEN_HEAD_FILES", "read_token_heads"]

#: Weights of the linear maps from a token's state to its weight and to its vector. FlagEmbedding reads both or none.
TOKEN_HEAD_FILES: Final = ("sparse_linear.pt", "colbert_linear.pt")

#: Tokens without a weight, with the texts of XLM-RoBERTa's tokenizer, which its files need not name.
_UNWEIGHTED: Mapping[str, str] = MappingProxyType(
    {"cls_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
)


def read_token_heads(folder: Path) -> TokenHeads | msgspec.UnsetType:
    """Return the further outputs of a checkpoint, if it has the weights of both.

    Raises:
        CardError: a file of the tokenizer cannot be read, is not JSON, or has a key of a wrong type.
    """
    if not all((folder / name).is_file() for name in TOKEN_HEAD_FILES):
        return msgspec.UNSET
    named = {**_UNWEIGHTED, **special_token_texts(folder)}
    return TokenHeads(unweighted=tuple(dict.fromkeys(named[key] for key in _UNWEIGHTED)))
