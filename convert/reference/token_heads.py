"""Reference of BGE-M3's further outputs, in torch: the steps of FlagEmbedding on the states of sentence-transformers' model.

Source: FlagEmbedding, `EncoderOnlyEmbedderM3ModelForInference.forward` and `M3Embedder.encode_single_device`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fletcher.model_zoo.sentence_transformers.token_heads import TOKEN_HEAD_FILES

__all__ = ["FurtherAnswer", "TokenMaps", "load_token_maps"]


@dataclass(frozen=True, slots=True)
class FurtherAnswer:
    """Further outputs of one text.

    Attributes:
        weights: largest weight by token id; weights of zero are left out.
        vectors: vectors of the tokens but the first, float32, (tokens - 1, width).
    """

    weights: Mapping[int, float]
    vectors: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TokenMaps:
    """The two linear maps.

    Attributes:
        sparse: torch's `Linear` from a state to a weight.
        vectors: torch's `Linear` from a state to a token's vector.
        unweighted: ids of the tokens without a weight.
    """

    sparse: Any
    vectors: Any
    unweighted: frozenset[int]

    def compute(self, states: Any, ids: tuple[int, ...]) -> FurtherAnswer:
        """Return the further outputs of one text.

        Args:
            states: last hidden states, torch's tensor (tokens, hidden).
            ids: token ids.
        """
        import torch

        with torch.inference_mode():
            weights = torch.relu(self.sparse(states))[:, 0].tolist()
            vectors = torch.nn.functional.normalize(self.vectors(states[1:]), dim=-1)
        largest: dict[int, float] = {}
        for token, weight in zip(ids, weights, strict=True):
            if token not in self.unweighted and weight > 0:
                largest[token] = max(weight, largest.get(token, 0.0))
        return FurtherAnswer(largest, np.asarray(vectors.numpy(), np.float32))


def load_token_maps(folder: Path, tokenizer: Any) -> TokenMaps:
    """Load both maps from their files; torch reads tensors alone.

    Args:
        folder: the checkpoint.
        tokenizer: transformers' tokenizer.
    """
    import torch

    maps = []
    for name in TOKEN_HEAD_FILES:
        state = torch.load(folder / name, map_location="cpu", weights_only=True)
        outputs, inputs = state["weight"].shape
        linear = torch.nn.Linear(inputs, outputs)  # float32, whatever the file has
        linear.load_state_dict(state)
        maps.append(linear.eval())
    named = ("cls_token", "eos_token", "pad_token", "unk_token")
    tokens = [getattr(tokenizer, name) for name in named if getattr(tokenizer, name) is not None]
    return TokenMaps(maps[0], maps[1], frozenset(tokenizer.convert_tokens_to_ids(tokens)))
