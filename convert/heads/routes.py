"""Modules of a model whose texts choose their route, after an encoder and a pooling that all routes share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from typing import cast

from fletcher.model_zoo.card import ModelCard
from fletcher.model_zoo.sentence_transformers.modules import read_modules as summarize
from fletcher.runtime.errors import CheckpointError

from ..architecture import Dense, Module, Normalize, Routes, Truncate
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.routes.layout import route_folders
from ..checkpoint.sentence_transformers import read_files
from ..checkpoint.tensors import Norm
from .pooled import read_modules

__all__ = ["read_routes"]


def read_routes(checkpoint: Checkpoint, card: ModelCard, hidden_size: int) -> tuple[Module, ...]:
    """Return the modules after the encoder: those that the routes share, and between them `Routes`; see `read_modules`.

    Raises:
        CheckpointError: Fletcher does not author a module, the modules contradict the card, the vectors of two routes have
            different lengths or norms, or the pooling leaves out the prompt.
    """
    folders = route_folders(checkpoint.folder)
    if not folders:
        return read_modules(checkpoint, card, hidden_size)
    if card.include_prompt is False:
        raise CheckpointError(
            f"{checkpoint.folder} leaves the prompt's tokens out of the pooling (include_prompt is false), which an artifact "
            "of several routes cannot: convert each route alone with --task"
        )
    summaries = [summarize(read_files(folder), hidden_size) for folder in folders]
    if any(summary != summaries[0] for summary in summaries):
        lengths = ", ".join(
            f"{one.dimension} elements{' of norm 1' * one.normalize}" for one in summaries if one is not None
        )
        raise CheckpointError(
            f"{checkpoint.folder} gives vectors of {lengths} by its routes, and those of an artifact have one length and "
            "either all the norm 1 or none: convert each route alone with --task"
        )
    return _join([read_modules(replace(checkpoint, folder=folder), card, hidden_size) for folder in folders])


def _join(routes: Sequence[tuple[Module, ...]]) -> tuple[Module, ...]:
    """Return the modules that all routes begin and end with, and between them those of each route."""
    begin = _count_equal(routes)
    rest = [modules[begin:] for modules in routes]
    end = _count_equal([modules[::-1] for modules in rest])
    if not any(rest):
        return routes[0]
    own = tuple(modules[: len(modules) - end] for modules in rest)
    if any(not isinstance(module, Dense | Norm | Normalize | Truncate) for modules in own for module in modules):
        raise ValueError("the routes share the modules up to the pooling")
    return (
        *routes[0][:begin],
        Routes(cast("tuple[tuple[Dense | Norm | Normalize | Truncate, ...], ...]", own)),
        *rest[0][len(rest[0]) - end :],
    )


def _count_equal(routes: Sequence[tuple[Module, ...]]) -> int:
    """Return the number of first modules that all routes have."""
    return len(
        list(takewhile(lambda modules: all(module == modules[0] for module in modules), zip(*routes, strict=False)))
    )
