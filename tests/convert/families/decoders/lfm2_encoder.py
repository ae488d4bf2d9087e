"""LFM2's encoder restated from the authors' formulas, as a tiny model of the tests."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from ...targets.tiny import Tiny
from ...verify.parity import save_checkpoint
from .models import make_tiny

__all__ = ["ENCODER", "make_encoder", "rewrite", "tiny_encoder"]

#: Published configuration of an encoder: the class of the repository's own code, which transformers loads otherwise.
ENCODER: dict[str, Any] = {
    "architectures": ["Lfm2BidirectionalModel"],
    "auto_map": {"AutoModel": "modeling_lfm2_bidirectional.Lfm2BidirectionalModel"},
}


def encoded(layer: Any, *, zero_padding: bool) -> Any:
    """Return the forward pass of a centered convolution, element by element of the kernel.

    Formula: Lfm2BidirectionalShortConv in modeling_lfm2_bidirectional.py of later versions of transformers.
    """

    def forward(hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **_: Any) -> torch.Tensor:
        if zero_padding and attention_mask is not None:
            hidden_states = hidden_states * attention_mask[..., None]
        before, after, value = layer.in_proj(hidden_states).chunk(3, -1)
        gated, size = before * value, layer.conv.weight.shape[-1]
        around = functional.pad(gated, (0, 0, size // 2, size // 2))
        mixed = torch.zeros_like(gated)
        for place in range(size):
            mixed = mixed + around[:, place : place + gated.shape[1]] * layer.conv.weight[:, 0, place]
        if layer.conv.bias is not None:
            mixed = mixed + layer.conv.bias
        return torch.nn.functional.linear(after * mixed, layer.out_proj.weight, layer.out_proj.bias)

    return forward


def make_encoder(model: Any, *, zero_padding: bool = False) -> Any:
    model.config.is_causal = False
    for layer in model.layers:
        if hasattr(layer, "conv"):
            layer.conv.forward = encoded(layer.conv, zero_padding=zero_padding)
    return model


def rewrite(folder: Path, **changes: Any) -> Path:
    file = folder / "config.json"
    config = {**json.loads(file.read_text()), **changes}
    config.pop("is_causal", None)
    file.write_text(json.dumps(config))
    return folder


@dataclasses.dataclass(frozen=True, slots=True)
class Encoded(Tiny):
    """`Encoded`: a tiny encoder, saved with the published classes."""

    def save(self, folder: Path) -> Path:
        changes = ENCODER if self.family == "lfm2" else {"model_type": self.family}
        return rewrite(save_checkpoint(self.model, folder, self.tokens), **changes)


def tiny_encoder(family: str = "lfm2", **changes: Any) -> Encoded:
    """Return a tiny encoder.

    Args:
        family: `lfm2` for the published class of a repository, `lfm2_bidirectional` for that of transformers.
        changes: settings that differ.
    """
    tiny = make_tiny("lfm2", **changes)
    make_encoder(tiny.model)
    values = {field.name: getattr(tiny, field.name) for field in dataclasses.fields(tiny)}
    return Encoded(**values | {"family": family})
