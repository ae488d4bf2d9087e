"""Reference models for families that transformers does not implement, or not with every option of the original.

Each is an independent implementation, in torch, of the formulas that the family's paper and original repository publish.
It uses no code of Fletcher's converter, and it runs padded batches with a mask, which Fletcher does not have.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file
from torch.nn import functional

from ..verify.parity import BERT_TOKENS, Parity, load, make_card

__all__ = ["Restated", "Static", "half_turned", "neighbors_turned"]

Shapes = Mapping[str, tuple[int, ...]]


class Restated:
    """Named tensors with random values, and functions for a forward pass; a family adds `forward`.

    Args:
        config: the checkpoint's `config.json`.
        shapes: shapes of the tensors by name.
        longest: largest number of tokens of a text.
    """

    def __init__(self, config: dict[str, Any], shapes: Shapes, longest: int) -> None:
        torch.set_num_threads(1)
        generator = torch.Generator().manual_seed(0)
        self.settings, self.longest = config, longest
        self.tensors = {}
        for name, shape in shapes.items():
            noise = torch.empty(shape).normal_(0.0, 0.2, generator=generator)
            is_norm = any(part in name.lower() for part in ("norm", "_ln")) and name.endswith("weight")
            self.tensors[name] = torch.nn.Parameter(1 + noise if is_norm else noise, requires_grad=False)

    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        yield from self.tensors.items()

    def __call__(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
    ) -> SimpleNamespace:
        texts, tokens = input_ids.shape
        mask = torch.ones(texts, tokens) if attention_mask is None else attention_mask
        positions = torch.arange(tokens).expand(texts, -1) if position_ids is None else position_ids
        bias = torch.zeros(texts, 1, 1, tokens).masked_fill(mask[:, None, None] == 0, -1e9)
        return SimpleNamespace(last_hidden_state=self.forward(input_ids, bias, positions))

    def forward(self, ids: torch.Tensor, bias: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Return token vectors, (texts, tokens, hidden).

        Args:
            ids: (texts, tokens).
            bias: added to the scores, (texts, 1, 1, tokens).
            positions: (texts, tokens).
        """
        raise NotImplementedError

    def linear(self, name: str, value: torch.Tensor) -> torch.Tensor:
        return functional.linear(value, self.tensors[f"{name}.weight"], self.tensors.get(f"{name}.bias"))

    def norm(self, name: str, value: torch.Tensor, epsilon: float) -> torch.Tensor:
        weight = self.tensors[f"{name}.weight"]
        return functional.layer_norm(value, weight.shape, weight, self.tensors[f"{name}.bias"], epsilon)

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Return softmax(q · kᵀ / sqrt(size) + bias) · v of (texts, tokens, heads, size), as (texts, tokens, hidden)."""
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]) + bias
        return (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)

    def save(self, folder: Path, **changes: Any) -> Path:
        """Write the checkpoint, with changed settings if any."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.settings | changes))
        save_file({name: tensor.data.clone() for name, tensor in self.tensors.items()}, folder / "model.safetensors")
        return folder

    def parity(self, folder: Path, hidden: int, vocabulary: int) -> Parity:
        """Return this model together with Fletcher's session of its checkpoint."""
        session = load(self.save(folder), make_card(folder, hidden, self.longest))
        return Parity(self, session, BERT_TOKENS, vocabulary, self.longest)


class Static(Restated):
    """Static embeddings: a token's vector is its row of a table of 60 rows of 24 elements, whatever the text."""

    def __init__(self) -> None:
        config = {"model_type": "static_embedding", "hidden_size": 24, "vocab_size": 60}
        super().__init__(config, {"embedding.weight": (60, 24)}, 24)

    def forward(self, ids: torch.Tensor, bias: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return self.tensors["embedding.weight"][ids]


def _angles(positions: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    return positions[..., None, None].float() * pairs  # (texts, tokens, 1, pairs): one angle for all heads


def half_turned(value: torch.Tensor, positions: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    """Rotate the points (element i, element i + n) of each head by position times frequency; keep the other elements."""
    angles, count = _angles(positions, pairs), len(pairs)
    x, y, unchanged = value[..., :count], value[..., count : 2 * count], value[..., 2 * count :]
    return torch.cat((x * angles.cos() - y * angles.sin(), x * angles.sin() + y * angles.cos(), unchanged), -1)


def neighbors_turned(value: torch.Tensor, positions: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    """Rotate the points (element 2i, element 2i + 1), as products of complex numbers (Su et al., arxiv 2104.09864)."""
    angles, count = _angles(positions, pairs), len(pairs)
    points = torch.view_as_complex(value[..., : 2 * count].reshape(*value.shape[:-1], count, 2))
    rotated = torch.view_as_real(points * torch.polar(torch.ones_like(angles), angles)).flatten(-2)
    return torch.cat((rotated, value[..., 2 * count :]), -1)
