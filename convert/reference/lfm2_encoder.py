"""LFM2's encoder in torch: transformers' Lfm2Model with attention in both directions and centered convolutions.

Restated from modeling_lfm2_bidirectional.py of later versions of transformers, whose attention and norms are those of
modeling_lfm2.py. The replaced modules keep the names of their parts, so that hooks find them. It shares no code with
`families/decoders/lfm2.py`, which it checks.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["make_encoder"]


class _CenteredConvolution(nn.Module):
    """Convolution of a layer, with as many tokens after each one as before it."""

    def __init__(self, causal: Any, *, zero_padding: bool) -> None:
        super().__init__()
        self.in_proj, self.conv, self.out_proj = causal.in_proj, causal.conv, causal.out_proj
        self.zero_padding = zero_padding

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **_: Any) -> Tensor:
        if attention_mask is not None and self.zero_padding:
            hidden_states = hidden_states * attention_mask[:, :, None]
        before, after, value = self.in_proj(hidden_states).transpose(1, 2).chunk(3, dim=1)
        size = self.conv.kernel_size[0]
        mixed = functional.conv1d(
            before * value, self.conv.weight, self.conv.bias, padding=size // 2, groups=self.conv.groups
        )
        return self.out_proj((after * mixed).transpose(1, 2))  # type: ignore[no-any-return]


def make_encoder(model: Any, *, zero_padding: bool) -> None:
    """Change transformers' Lfm2Model into the encoder.

    Args:
        model: the model, which is changed.
        zero_padding: `conv_zero_padding`: whether masked tokens are zeros in the convolutions.
    """
    model.config.is_causal = False  # `create_causal_mask` reads it
    for layer in model.layers:
        if hasattr(layer, "conv"):
            layer.conv = _CenteredConvolution(layer.conv, zero_padding=zero_padding)
