"""NomicBERT with experts in torch: the reference of nomic-embed-text-v2-moe, whose parts transformers' class lacks.

Restated from modeling_hf_nomic_bert.py of huggingface.co/nomic-ai/nomic-bert-2048, read in vLLM's bert_with_rope.py and in
github.com/nomic-ai/contrastors. The modules have the names that those files give them, so that their tensors load by name and
hooks find them. It shares no code with `families/rotary/nomic_bert.py`, which it checks: sizes come from the tensors, and
each expert computes the tokens that chose it, one expert after the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from .jina import eager_attention_forward

__all__ = ["NomicExperts"]

#: Prefixes of tensors of heads, which token vectors do not need.
UNUSED = ("pooler.", "cls.", "classifier.")


def _linear(tensors: Mapping[str, Tensor], name: str) -> nn.Linear:
    """Return a product of the size of its tensors."""
    rows, columns = tensors[f"{name}.weight"].shape
    return nn.Linear(columns, rows, bias=f"{name}.bias" in tensors)


class _Embeddings(nn.Module):
    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(*tensors["embeddings.word_embeddings.weight"].shape)
        types = tensors.get("embeddings.token_type_embeddings.weight")
        if types is not None:
            self.token_type_embeddings = nn.Embedding(*types.shape)
        self.typed = types is not None

    def forward(self, ids: Tensor) -> Tensor:
        words = self.word_embeddings(ids)
        if self.typed:
            words = words + self.token_type_embeddings(torch.zeros_like(ids))
        return words  # type: ignore[no-any-return]


class _Attention(nn.Module):
    def __init__(self, tensors: Mapping[str, Tensor], name: str, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.Wqkv, self.out_proj = (_linear(tensors, f"{name}.{part}") for part in ("Wqkv", "out_proj"))
        self.heads = int(config["n_head"])
        size = self.out_proj.in_features // self.heads
        self.turned = int(size * config.get("rotary_emb_fraction", 0.0))
        self.base, self.interleaved = config.get("rotary_emb_base", 10_000), config.get("rotary_emb_interleaved", False)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        packed = self.Wqkv(hidden).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = packed  # (texts, heads, tokens, size)
        query, key = self._rotate(query), self._rotate(key)
        context, _ = eager_attention_forward(self, query, key, value, mask, scaling=1 / math.sqrt(query.shape[-1]))
        return self.out_proj(context.flatten(2))  # type: ignore[no-any-return]

    def _rotate(self, value: Tensor) -> Tensor:
        """Turn the first elements of each head: x · cos + partner · sin, with the partner's sign as in `rotate_half`."""
        turned, rest = value[..., : self.turned], value[..., self.turned :]
        steps = torch.arange(0, self.turned, 2, dtype=torch.float32) / self.turned
        angles = torch.outer(torch.arange(value.shape[2], dtype=torch.float32), 1.0 / self.base**steps)
        if self.interleaved:
            angles = angles.repeat_interleave(2, -1)
            partner = torch.stack((-turned[..., 1::2], turned[..., ::2]), -1).flatten(-2)
        else:
            angles = torch.cat((angles, angles), -1)
            first, second = turned.chunk(2, -1)
            partner = torch.cat((-second, first), -1)
        return torch.cat((turned * angles.cos() + partner * angles.sin(), rest), -1)


class _Mlp(nn.Module):
    def __init__(self, tensors: Mapping[str, Tensor], name: str) -> None:
        super().__init__()
        self.fc1, self.fc2 = (_linear(tensors, f"{name}.{part}") for part in ("fc1", "fc2"))
        self.act = nn.GELU()

    def forward(self, hidden: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(hidden)))  # type: ignore[no-any-return]


class _Router(nn.Module):
    def __init__(self, tensors: Mapping[str, Tensor], name: str) -> None:
        super().__init__()
        self.layer = _linear(tensors, f"{name}.layer")
        self.shares = nn.Softmax(dim=-1)

    def forward(self, rows: Tensor) -> Tensor:
        return self.shares(self.layer(rows))  # type: ignore[no-any-return]


class _ExpertMatrices(nn.Module):
    """Matrices of all experts, one above the other: (experts · inner, hidden)."""

    def __init__(self, tensors: Mapping[str, Tensor], name: str) -> None:
        super().__init__()
        self.w1, self.w2 = (nn.Parameter(torch.empty_like(tensors[f"{name}.{part}"])) for part in ("w1", "w2"))


class _Experts(nn.Module):
    def __init__(self, tensors: Mapping[str, Tensor], name: str, top: int) -> None:
        super().__init__()
        self.mlp = _ExpertMatrices(tensors, f"{name}.mlp")
        self.bias = nn.Parameter(torch.empty_like(tensors[f"{name}.bias"]))
        self.act = nn.GELU()
        self.top = top

    def forward(self, rows: Tensor, shares: Tensor) -> Tensor:
        """Return the sum of the chosen experts' results by their shares, and the bias, (texts, tokens, hidden)."""
        flat, count = rows.flatten(0, 1), shares.shape[-1]
        weights, chosen = shares.flatten(0, 1).topk(self.top, dim=-1)
        up, down = (matrix.reshape(count, -1, flat.shape[-1]) for matrix in (self.mlp.w1, self.mlp.w2))
        result = torch.zeros_like(flat)
        for expert in range(count):
            token, place = torch.where(chosen == expert)
            inner = self.act(flat[token] @ up[expert].T)
            result.index_add_(0, token, (inner @ down[expert]) * weights[token, place, None])
        return result.reshape(rows.shape) + self.bias


class _MixedMlp(nn.Module):
    def __init__(self, tensors: Mapping[str, Tensor], name: str, top: int) -> None:
        super().__init__()
        self.router, self.experts = _Router(tensors, f"{name}.router"), _Experts(tensors, f"{name}.experts", top)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.experts(hidden, self.router(hidden))  # type: ignore[no-any-return]


class _Layer(nn.Module):
    def __init__(self, tensors: Mapping[str, Tensor], name: str, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.attn = _Attention(tensors, f"{name}.attn", config)
        mixed = f"{name}.mlp.router.layer.weight" in tensors
        self.mlp = _MixedMlp(tensors, f"{name}.mlp", config["moe_top_k"]) if mixed else _Mlp(tensors, f"{name}.mlp")
        epsilon = float(config.get("layer_norm_epsilon", 1e-5))
        hidden = len(tensors[f"{name}.norm1.weight"])
        self.norm1, self.norm2 = (nn.LayerNorm(hidden, eps=epsilon) for _ in range(2))

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        hidden = self.norm1(hidden + self.attn(hidden, mask))
        return self.norm2(hidden + self.mlp(hidden))  # type: ignore[no-any-return]


class _Encoder(nn.Module):
    def __init__(self, layers: list[_Layer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


class NomicExperts(nn.Module):
    """NomicBERT with experts, with the call of transformers' models.

    Attributes:
        config: `model_type` and `num_attention_heads`, as in transformers' models.
    """

    def __init__(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Build the modules and load the tensors.

        Args:
            config: `config.json` of the checkpoint.
            tensors: tensors of the checkpoint, in float32.

        Raises:
            KeyError: a setting or a tensor is missing.
            RuntimeError: a tensor is missing, surplus, or of another shape.
        """
        super().__init__()
        tensors = {name.removeprefix("bert."): tensor for name, tensor in tensors.items()}
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(UNUSED)}
        self.embeddings = _Embeddings(tensors)
        epsilon = float(config.get("layer_norm_epsilon", 1e-5))
        self.emb_ln = nn.LayerNorm(len(tensors["emb_ln.weight"]), eps=epsilon)
        names = (f"encoder.layers.{index}" for index in range(int(config["n_layer"])))
        self.encoder = _Encoder([_Layer(tensors, name, config) for name in names])
        self.config = SimpleNamespace(model_type="nomic_bert_experts", num_attention_heads=int(config["n_head"]))
        self.load_state_dict(tensors)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> SimpleNamespace:
        """Return token vectors as `last_hidden_state`, (texts, tokens, hidden), of ids of that shape, padded on the right."""
        texts, tokens = input_ids.shape
        mask = torch.zeros(texts, 1, 1, tokens)
        if attention_mask is not None:
            mask = mask.masked_fill(attention_mask[:, None, None] == 0, torch.finfo(torch.float32).min)
        hidden = self.emb_ln(self.embeddings(input_ids))
        for layer in self.encoder.layers:
            hidden = layer(hidden, mask)
        return SimpleNamespace(last_hidden_state=hidden)
