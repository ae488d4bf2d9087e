"""Students: some of the layers of a teacher, and no dropout. The module is imported by a training."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from fletcher.runtime.errors import CheckpointError, InputError

__all__ = ["keep_layers", "kept_layers", "remove_dropout"]


def kept_layers(count: int, kept: int) -> tuple[int, ...]:
    """Return evenly spread layers of `count`, the last one among them: 1, 3 and 5 of six layers."""
    return tuple((np.arange(1, kept + 1) * count // kept - 1).tolist())


def keep_layers(model: Any, kept: int) -> tuple[int, ...]:
    """Remove layers of a model in place, and return the indices of those that stay.

    Args:
        model: a model of sentence-transformers.
        kept: number of layers that stay.

    Raises:
        InputError: the model has no more layers than that.
        CheckpointError: its layers are not a list of separate modules, or depend on their place.
    """
    encoder = model[0].model
    config = encoder.config
    count = config.num_hidden_layers
    if not 1 <= kept < count:
        raise InputError(f"--layers {kept}: the checkpoint has {count} layers; choose fewer")
    lists = [
        (parent, name)
        for parent in encoder.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == count
    ]
    if len(lists) != 1 or getattr(config, "global_attn_every_n_layers", None):
        raise CheckpointError(
            f"the layers of {type(encoder).__name__} share weights or depend on their place, and none can be removed: give a "
            "smaller --student"
        )
    chosen = kept_layers(count, kept)
    parent, name = lists[0]
    setattr(parent, name, nn.ModuleList(getattr(parent, name)[index] for index in chosen))
    config.num_hidden_layers = kept
    if (types := getattr(config, "layer_types", None)) is not None:
        config.layer_types = [types[index] for index in chosen]
    return chosen


def remove_dropout(model: nn.Module) -> None:
    """Let a model compute in training as it does otherwise: a student that is to repeat vectors learns nothing from noise."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "attention_dropout", None), float):
            setattr(module, "attention_dropout", 0.0)  # noqa: B010  its type is not that of a module's attributes
