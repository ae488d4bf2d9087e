"""Norms whose outputs can be moved: those of BERT, with residual connections, and none whose outputs have other readers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fletcher.convert.texts import SENTENCES
from fletcher.convert.tune.aware.center import find_centers
from fletcher.convert.tune.aware.modules import QuantizedLinear
from fletcher.runtime import Artifact

from .test_smooth import aware_model

TEXTS = list(SENTENCES[:3])


def groups_of(model: Any) -> dict[str, list[QuantizedLinear]]:
    groups: dict[str, list[QuantizedLinear]] = {}
    for module in model.modules():
        if isinstance(module, QuantizedLinear):
            module.exact = True
            groups.setdefault(module.product, []).append(module)
    return groups


def test_outputs_of_norms_move_without_a_change_of_the_vectors(tiny_artifact: Path, tiny_checkpoint: Path) -> None:
    """Queries, keys and values read a norm of BERT, and so does the feed-forward part; each is added to a later output."""
    model, _ = aware_model(Artifact.open(tiny_artifact), tiny_checkpoint)
    groups = groups_of(model)
    centers = dict(zip(groups, find_centers(model, list(groups.values()), TEXTS), strict=True))
    assert {name for name, center in centers.items() if center is not None} == {
        f"layers.{layer}.{name}" for layer in range(2) for name in ("attention.qkv", "feed_forward.up")
    }
    for layers in groups.values():
        for layer in layers:
            layer.exact = True
    with torch.no_grad():
        before = np.stack([model.encode(text, prompt="") for text in SENTENCES])
    norms = []
    for center in centers.values():
        if center is not None:
            center.move(torch.randn(len(center.norm.bias), generator=torch.Generator().manual_seed(1)))
            assert center.added is not None
            norms.append(center.norm)
    assert len(set(norms)) == 4
    with torch.no_grad():
        after = np.stack([model.encode(text, prompt="") for text in SENTENCES])
    assert np.abs(after - before).max() < 1e-5


def test_a_norm_with_another_reader_is_left_alone(tiny_artifact: Path, tiny_checkpoint: Path) -> None:
    """Without the layer of the values in the group, their constants would not be taken back."""
    model, _ = aware_model(Artifact.open(tiny_artifact), tiny_checkpoint)
    groups = groups_of(model)
    layers = groups["layers.0.attention.qkv"]
    biases = [module.bias.detach().clone() for module in model.modules() if isinstance(module, nn.LayerNorm)]
    assert find_centers(model, [layers[:2]], TEXTS) == [None]
    after = [module.bias for module in model.modules() if isinstance(module, nn.LayerNorm)]
    assert all((one == other).all() for one, other in zip(biases, after, strict=True))
