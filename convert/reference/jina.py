"""JinaBERT v2 in torch: the reference of a family for which transformers has no class. It is imported only by a load.

Restated from the published modeling_bert.py of two repositories of huggingface.co/jinaai: jina-bert-implementation
(small-en, base-en) and jina-bert-v2-qk-post-norm (base-code and the bilingual ones). The modules have the names that those
files give them, so that their tensors load by name and hooks find them. It shares no code with `families/jina_bert.py`, which
it checks: sizes come from the tensors, slopes from the formula of the original's `_get_alibi_head_slopes`.

The files themselves are on the model hub only; they were read in adaptations that keep their classes: for the first, vLLM's
jina_bert ("adapted from jinaai/jina-bert-implementation") and two ports to other frameworks; for the second, transformers'
unmerged `jina_bert` and text-embeddings-inference's jinaBert_model.py. (candle's port has other slopes than all of these.)
Dropout and the decoder's cache are left out, since inference does not use them; the mask is half of float32's lowest number,
so that a bias can be added to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fletcher.runtime.errors import CheckpointError

from ..checkpoint.json_files import find_json

__all__ = ["JinaBert", "load_jina"]

#: Activations of the gate, by `feed_forward_type`.
GATES: Mapping[str, type[nn.Module]] = {"geglu": nn.GELU, "reglu": nn.ReLU}

#: Prefixes of tensors of a task's head, or of old versions, that token vectors do not need.
UNUSED = ("pooler.", "cls.", "classifier.", "embeddings.position_ids", "embeddings.token_type_ids")


def eager_attention_forward(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, scaling: float
) -> tuple[Tensor, Tensor]:
    """Return softmax(q · kᵀ · scaling + mask) · v; name and arguments are those of transformers' function, which hooks wrap.

    Args:
        module: calling module.
        query: (texts, heads, tokens, head_size).
        key: (texts, heads, tokens, head_size).
        value: (texts, heads, tokens, head_size).
        attention_mask: mask and bias, (texts or 1, heads, tokens, tokens).
        scaling: factor of the products.

    Returns:
        The context, (texts, tokens, heads, head_size), and the weights.
    """
    weights = (query @ key.transpose(-1, -2) * scaling + attention_mask).softmax(dim=-1)
    return (weights @ value).transpose(1, 2), weights


class _Embeddings(nn.Module):
    def __init__(self, words: int, types: int, hidden: int, epsilon: float) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(words, hidden)
        self.token_type_embeddings = nn.Embedding(types, hidden)
        self.LayerNorm = nn.LayerNorm(hidden, eps=epsilon)

    def forward(self, ids: Tensor, types: Tensor) -> Tensor:
        return self.LayerNorm(self.word_embeddings(ids) + self.token_type_embeddings(types))  # type: ignore[no-any-return]


class _SelfAttention(nn.Module):
    def __init__(self, hidden: int, heads: int, epsilon: float, *, normed: bool) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(hidden, hidden) for _ in range(3))
        if normed:
            self.layer_norm_q, self.layer_norm_k = (nn.LayerNorm(hidden, eps=epsilon) for _ in range(2))
        self.heads, self.normed = heads, normed

    def forward(self, hidden: Tensor, bias: Tensor) -> Tensor:
        query, key, value = self.query(hidden), self.key(hidden), self.value(hidden)
        if self.normed:
            query, key = self.layer_norm_q(query), self.layer_norm_k(key)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, key, value))
        scaling = 1 / math.sqrt(hidden.shape[-1] // self.heads)
        context, _ = eager_attention_forward(self, query, key, value, bias, scaling=scaling)
        return context.flatten(2)


class _SelfOutput(nn.Module):
    def __init__(self, hidden: int, epsilon: float) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden, hidden)
        self.LayerNorm = nn.LayerNorm(hidden, eps=epsilon)

    def forward(self, context: Tensor, inputs: Tensor) -> Tensor:
        return self.LayerNorm(self.dense(context) + inputs)  # type: ignore[no-any-return]


class _Attention(nn.Module):
    def __init__(self, hidden: int, heads: int, epsilon: float, *, normed: bool) -> None:
        super().__init__()
        self.self = _SelfAttention(hidden, heads, epsilon, normed=normed)
        self.output = _SelfOutput(hidden, epsilon)

    def forward(self, hidden: Tensor, bias: Tensor) -> Tensor:
        return self.output(self.self(hidden, bias), hidden)  # type: ignore[no-any-return]


class _GatedFirst(nn.Module):
    """Unit of jina-bert-implementation: the first half of the packed product is the gate; residual and norm are inside."""

    def __init__(self, hidden: int, inner: int, gate: type[nn.Module], epsilon: float) -> None:
        super().__init__()
        self.gated_layers = nn.Linear(hidden, 2 * inner, bias=False)
        self.act = gate()
        self.wo = nn.Linear(inner, hidden)
        self.layernorm = nn.LayerNorm(hidden, eps=epsilon)

    def forward(self, inputs: Tensor) -> Tensor:
        gated, non_gated = self.gated_layers(inputs).chunk(2, dim=-1)
        return self.layernorm(self.wo(self.act(gated) * non_gated) + inputs)  # type: ignore[no-any-return]


class _GatedLast(nn.Module):
    """Unit of jina-bert-v2-qk-post-norm: the second half of the packed product is the gate."""

    def __init__(self, hidden: int, inner: int, gate: type[nn.Module]) -> None:
        super().__init__()
        self.up_gated_layer = nn.Linear(hidden, 2 * inner, bias=False)
        self.act = gate()
        self.down_layer = nn.Linear(inner, hidden)

    def forward(self, inputs: Tensor) -> Tensor:
        up, gated = self.up_gated_layer(inputs).chunk(2, dim=-1)
        return self.down_layer(up * self.act(gated))  # type: ignore[no-any-return]


class _Layer(nn.Module):
    def __init__(
        self, hidden: int, inner: int, heads: int, gate: type[nn.Module], epsilon: float, *, normed: bool
    ) -> None:
        super().__init__()
        self.attention = _Attention(hidden, heads, epsilon, normed=normed)
        self.mlp: nn.Module = _GatedLast(hidden, inner, gate) if normed else _GatedFirst(hidden, inner, gate, epsilon)
        self.normed = normed
        if normed:
            self.layer_norm_1, self.layer_norm_2 = (nn.LayerNorm(hidden, eps=epsilon) for _ in range(2))

    def forward(self, hidden: Tensor, bias: Tensor) -> Tensor:
        attended = self.attention(hidden, bias)
        if not self.normed:
            return self.mlp(attended)  # type: ignore[no-any-return]
        residual = self.layer_norm_1(hidden + attended)
        return self.layer_norm_2(residual + self.mlp(residual))  # type: ignore[no-any-return]


class _Encoder(nn.Module):
    def __init__(self, layers: list[_Layer]) -> None:
        super().__init__()
        self.layer = nn.ModuleList(layers)

    def forward(self, hidden: Tensor, bias: Tensor) -> Tensor:
        for layer in self.layer:
            hidden = layer(hidden, bias)
        return hidden


class JinaBert(nn.Module):
    """JinaBERT in either implementation, with the call of transformers' models.

    Attributes:
        config: `model_type` and `num_attention_heads`, as in transformers' models.
    """

    def __init__(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Build the modules and load the tensors.

        Args:
            config: `config.json` of the checkpoint.
            tensors: tensors, by the names of this class's parameters.

        Raises:
            CheckpointError: the feed-forward part is not one of the published models'.
            KeyError: a setting or a tensor is missing.
            RuntimeError: a tensor is missing, surplus, or of another shape.
        """
        super().__init__()
        kind = str(config.get("feed_forward_type"))
        if kind not in GATES:
            raise CheckpointError(
                f"JinaBERT's feed_forward_type is {kind!r}; the reference supports {', '.join(GATES)}"
            )
        normed = "encoder.layer.0.layer_norm_1.weight" in tensors
        words, hidden = tensors["embeddings.word_embeddings.weight"].shape
        types = len(tensors["embeddings.token_type_embeddings.weight"])
        packed = "up_gated_layer" if normed else "gated_layers"
        inner = len(tensors[f"encoder.layer.0.mlp.{packed}.weight"]) // 2
        heads, epsilon = int(config["num_attention_heads"]), float(config.get("layer_norm_eps", 1e-12))
        self.embeddings = _Embeddings(words, types, hidden, epsilon)
        self.encoder = _Encoder(
            [
                _Layer(hidden, inner, heads, GATES[kind], epsilon, normed=normed)
                for _ in range(int(config["num_hidden_layers"]))
            ]
        )
        self.config = SimpleNamespace(
            model_type="jina_bert_qk_post_norm" if normed else "jina_bert", num_attention_heads=heads
        )
        self.load_state_dict(dict(tensors))

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> SimpleNamespace:
        """Return token vectors as `last_hidden_state`, (texts, tokens, hidden), of ids of that shape, padded on the right."""
        types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        places = torch.arange(input_ids.shape[1])
        distances = (places[None, :] - places[:, None]).abs()
        bias = -torch.tensor(_slopes(self.config.num_attention_heads))[:, None, None] * distances
        bias = bias[None]
        if attention_mask is not None:
            lowest = torch.finfo(torch.float32).min / 2
            bias = bias.masked_fill(attention_mask[:, None, None] == 0, lowest)
        return SimpleNamespace(last_hidden_state=self.encoder(self.embeddings(input_ids, types), bias))


def _slopes(heads: int) -> list[float]:
    """Return ALiBi's slopes as the original computes them; for powers of two they are the paper's, arXiv 2108.12409."""
    if math.log2(heads).is_integer():
        ratio: float = 2.0 ** (-(2.0 ** -(math.log2(heads) - 3)))
        return [ratio ** (index + 1) for index in range(heads)]
    power = 2 ** math.floor(math.log2(heads))
    return _slopes(power) + _slopes(2 * power)[0::2][: heads - power]


def load_jina(folder: Path) -> JinaBert:
    """Load the model of a checkpoint folder, in float32.

    Raises:
        CheckpointError: the feed-forward part is not one of the published models'.
        OSError, KeyError, RuntimeError: a file, a setting or a tensor is missing, surplus, or of another shape.
    """
    listing = find_json(folder / "model.safetensors.index.json")
    files = sorted(set(listing["weight_map"].values())) if listing else ["model.safetensors"]
    stored = {name: tensor for file in files for name, tensor in load_file(folder / file).items()}
    tensors = {name.removeprefix("bert."): tensor.float() for name, tensor in stored.items()}
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(UNUSED)}
    return JinaBert(find_json(folder / "config.json"), tensors)
