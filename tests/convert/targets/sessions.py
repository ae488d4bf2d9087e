"""Graphs of every target on the CPU provider: emitted, written, and run with the runtime's feeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from safetensors import safe_open

from fletcher.convert.architecture import Architecture
from fletcher.convert.checkpoint.checkpoint import Checkpoint
from fletcher.convert.families import describe
from fletcher.convert.graph.builder import write_weights
from fletcher.convert.heads.pooled import read_modules
from fletcher.convert.precision import Float
from fletcher.convert.targets.emit import choose, emit, emit_with_kernels
from fletcher.convert.targets.shared.emission import Emission
from fletcher.model_zoo.card import ModelCard
from fletcher.runtime.artifact.manifest import TOKEN_OUTPUTS
from fletcher.runtime.batch import Batch
from fletcher.runtime.providers.mlas.graph import CpuGraph
from fletcher.runtime.session.feeds import make_feeds, pack
from fletcher.runtime.session.session import Session

from ..verify.parity import Parity, make_card
from .models import Tiny
from .support.contrib_operators import spell_out
from .support.rounding import RoundingGraph

__all__ = ["TargetSession", "architecture_of", "load_rounded", "load_target", "models_of", "parity_of"]


class TargetSession(Session):
    """`Session` of a target's graphs. It runs the shortest graph that fits, text by text if the graph takes only one."""

    provider = "CPU"

    def __init__(
        self, emissions: Sequence[Emission], graphs: Sequence[CpuGraph | RoundingGraph], tables: Mapping[str, Any]
    ) -> None:
        self._parts = list(zip(emissions, graphs, strict=True))
        self._tables = tables

    def run(self, batch: Batch, output: str | None = None) -> NDArray[np.float32]:
        if self._parts[0][0].feeds.shape is None:
            return self._run(*self._parts[0], batch, output)
        rows = []
        for row in range(len(batch)):
            text = batch.select(np.array([row]))
            fits = (part for part in self._parts if part[0].feeds.shape[1] >= text.num_tokens)  # type: ignore[index]
            rows.append(self._run(*next(fits), text, output))
        return np.concatenate(rows)

    def _run(
        self, emission: Emission, graph: CpuGraph | RoundingGraph, batch: Batch, name: str | None
    ) -> NDArray[np.float32]:
        tables = {name: self._tables[weight] for name, weight in emission.feeds.tables.items()}
        feeds = make_feeds(tuple(emission.graph.inputs), emission.feeds, batch, tables)
        output = name or emission.graph.outputs[0].name
        vectors: NDArray[np.float32] = graph.run(feeds, [output])[0]
        assert vectors.dtype == np.float32
        return pack(vectors, batch) if output in TOKEN_OUTPUTS else vectors

    def close(self) -> None:
        """Do nothing: garbage collection releases the graphs."""


def architecture_of(folder: Path, card: ModelCard) -> Architecture:
    """Return a checkpoint's architecture, with its modules."""
    checkpoint = Checkpoint.open(folder)
    architecture = describe(checkpoint)
    return dataclasses.replace(architecture, modules=read_modules(checkpoint, card, architecture.hidden_size))


def models_of(
    architecture: Architecture,
    card: ModelCard,
    folder: Path,
    target: str,
    precision: Float,
    islands: Iterable[str] = (),
    *,
    kernels: bool = False,
) -> tuple[tuple[Emission, ...], list[onnx.ModelProto]]:
    """Emit a target's graphs, perhaps with Fletcher's kernels, and write their weights into `folder`."""
    emitter = emit_with_kernels if kernels else emit
    emissions = emitter(target, architecture, card.dimension, card.max_tokens, choose(target, precision, islands))
    weights = {name: weight for part in emissions for name, weight in part.graph.weights.items()}
    places = write_weights(folder / f"{target}.{precision}.safetensors", weights.values())
    models = [part.graph.model(places) for part in emissions]
    for part in emissions:
        part.graph.save(folder / f"{target}-{precision}{part.suffix}.onnx", places)
    return emissions, models


def load_target(
    architecture: Architecture,
    card: ModelCard,
    folder: Path,
    target: str,
    precision: Float,
    islands: Iterable[str] = (),
) -> TargetSession:
    """Emit a target's graphs and load them on the CPU provider, with packed attention in standard operators."""
    emissions, models = models_of(architecture, card, folder, target, precision, islands)
    graphs = [CpuGraph(spell_out(model).SerializeToString(), folder) for model in models]
    return TargetSession(emissions, graphs, _tables(emissions, folder / f"{target}.{precision}.safetensors"))


def load_rounded(
    architecture: Architecture, card: ModelCard, folder: Path, target: str, precision: Float
) -> TargetSession:
    """Emit a target's graphs and load them with values that are rounded after every node."""
    emissions, models = models_of(architecture, card, folder, target, precision)
    graphs = [RoundingGraph(spell_out(model), folder) for model in models]
    return TargetSession(emissions, graphs, _tables(emissions, folder / f"{target}.{precision}.safetensors"))


def _tables(emissions: Sequence[Emission], file: Path) -> dict[str, Any]:
    """Return the tables that the host reads, by name."""
    with safe_open(file, framework="numpy") as weights:
        return {name: weights.get_tensor(name) for part in emissions for name in part.feeds.tables.values()}


def parity_of(tiny: Tiny, folder: Path, target: str, precision: Float = "fp32") -> Parity:
    """Return a tiny model together with a session of one of its targets."""
    card = make_card(tiny.save(folder), tiny.hidden, tiny.longest)
    session = load_target(architecture_of(folder, card), card, folder, target, precision)
    return tiny.parity(session)
