"""`find_centers`: layer norms whose outputs can be moved by constants, without any change of the model's vectors.

The bias of a norm is free where every reader of its output can take back a constant: layers by their biases, and a residual
connection by the bias of the layer that is added to it. Families name and connect these layers in other ways, so a place is
tried with random constants, and counts only if the vectors stay. The module is imported by a training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .modules import QuantizedLinear, exact

__all__ = ["Center", "find_centers"]

#: Largest change of a vector's element by random constants of about 1: float32's rounding makes 1e-6, a missed reader 1e-2.
LARGEST = 1e-4


@dataclass(frozen=True, slots=True)
class Center:
    """`Center`: a norm whose outputs can be moved.

    Attributes:
        norm: the norm.
        readers: the quantized layers that read its outputs.
        added: the layer whose results are added to its outputs; None without a residual connection.
    """

    norm: nn.LayerNorm
    readers: tuple[QuantizedLinear, ...]
    added: nn.Linear | None

    @torch.no_grad()
    def move(self, constants: Tensor) -> None:
        """Subtract constants from the norm's outputs, (in,), and add their effect where the outputs are read."""
        self.norm.bias.sub_(constants)
        for layer in self.readers:
            layer.bias.add_(layer.weight @ constants)
        if self.added is not None:
            self.added.bias.add_(constants)


def find_centers(model: Any, groups: Sequence[Sequence[QuantizedLinear]], texts: Sequence[str]) -> list[Center | None]:
    """Return the norm of each group of layers; None where there is none, or where its outputs have other readers.

    Args:
        model: a model of sentence-transformers whose layers `make_aware` replaced.
        groups: layers that read the same activations.
        texts: some texts to try with.
    """
    with exact(groups):
        calls = _calls(model, texts[0])
        return [_try(model, _candidates(calls, group), texts) for group in groups]


def _calls(model: Any, text: str) -> list[tuple[nn.Module, Tensor, Tensor]]:
    """Return the norms and the linear layers in the order of the computation, with their inputs and outputs."""
    calls: list[tuple[nn.Module, Tensor, Tensor]] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append((module, inputs[0], output))  # kept, so that no later tensor has the same address

    hooks = [one.register_forward_hook(note) for one in model.modules() if isinstance(one, nn.LayerNorm | nn.Linear)]
    try:
        _vectors(model, [text])
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _candidates(calls: Sequence[tuple[nn.Module, Tensor, Tensor]], group: Sequence[QuantizedLinear]) -> list[Center]:
    """Return the norm that a group reads, without a residual connection and with one."""
    first = next((place for place, (module, _, _) in enumerate(calls) if module is group[0]), None)
    if first is None or any(layer.bias is None for layer in group):
        return []
    read = calls[first][1].data_ptr()
    source = next(
        (
            place
            for place in range(first)
            if isinstance(calls[place][0], nn.LayerNorm) and calls[place][2].data_ptr() == read
        ),
        None,
    )
    if source is None or getattr(calls[source][0], "bias", None) is None:
        return []
    norm: Any = calls[source][0]
    found = [Center(norm, tuple(group), None)]
    following = next((place for place in range(first, len(calls)) if isinstance(calls[place][0], nn.LayerNorm)), None)
    added: Any = None if following is None else calls[following - 1][0]
    if added is not None and added not in group and added.bias is not None and len(added.bias) == len(norm.bias):
        found.append(Center(norm, tuple(group), added))
    return found


def _try(model: Any, candidates: Sequence[Center], texts: Sequence[str]) -> Center | None:
    """Return the first candidate that does not change the vectors, or None."""
    for center in candidates:
        before = _vectors(model, texts)
        touched = [center.norm.bias, *(layer.bias for layer in center.readers)]
        touched += [] if center.added is None else [center.added.bias]
        kept = [bias.detach().clone() for bias in touched]
        constants = torch.randn(len(center.norm.bias), generator=torch.Generator().manual_seed(0))
        center.move(constants.to(center.norm.bias.device))
        after = _vectors(model, texts)
        with torch.no_grad():
            for bias, original in zip(touched, kept, strict=True):
                bias.copy_(original)
        if float((after - before).abs().max()) < LARGEST:
            return center
    return None


@torch.no_grad()
def _vectors(model: Any, texts: Sequence[str]) -> Tensor:
    """Return the vectors of texts, each computed by itself, (texts, dimension), of length 1."""
    found = [model.encode(text, prompt="", convert_to_tensor=True, normalize_embeddings=True) for text in texts]
    return torch.stack(found)
