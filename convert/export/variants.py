"""Graphs of an artifact: every target in every precision, with one file of weights for each precision."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fletcher.model_zoo.card import ModelCard
from fletcher.runtime import Encodings, Variant
from fletcher.runtime.artifact.manifest import FileInfo, Target
from fletcher.runtime.errors import InputError
from fletcher.runtime.origin.tolerances import default_tolerance
from fletcher.runtime.providers.selection import runnable_targets
from fletcher.runtime.session.feeds import make_feeds

from ..architecture import Architecture
from ..checkpoint.tensors import Weight
from ..graph.weights_file import WeightsFile, unwritten, write_weights
from ..precision import FLOATS, FP32, Float, Precision
from ..targets.cuda.causal import is_causal
from ..targets.emit import PRECISIONS, choose, emit
from ..targets.shared.emission import Emission
from .memory import memory_shape
from .pieces import compute_in_pieces, group_rows
from .precision_islands import SQUARES, find_islands, record_maxima

__all__ = ["Emitter", "GraphWriter", "check_kernels", "check_variants"]

#: Target, architecture, dimension, longest text and precision to the target's graphs, as `targets.emit.emit`.
Emitter = Callable[[str, Architecture, int, int, Precision], tuple[Emission, ...]]

#: Targets without overflow in sums of squares: ONNX Runtime's CUDA LayerNormalization sums in fp32 (`stash_type`), and
#: SkipLayerNormalization, into which it fuses residual and norm, averages squares in the graph's type. TensorRT's and
#: CoreML's layers do not guarantee it in every version.
WIDE_STATISTICS = ("cuda",)


def check_variants(targets: Sequence[str], precisions: Sequence[str]) -> list[tuple[Target, Float]]:
    """Return all pairs of a target and a precision, the targets in the order of `PRECISIONS`, and fp32 first for each.

    Raises:
        InputError: a target or a precision is unknown, or a target does not have a precision.
    """
    names = tuple(dict.fromkeys(precision for of_target in PRECISIONS.values() for precision in of_target))
    for kind, requested, choices in (("target", targets, tuple(PRECISIONS)), ("precision", precisions, names)):
        if unknown := [value for value in requested if value not in choices]:
            raise InputError(f"the {kind} {unknown[0]!r} is unknown: choose from {', '.join(choices)}")
    pairs = []
    for target in (target for target in PRECISIONS if target in targets):
        for precision in precisions:
            if precision not in PRECISIONS[target]:
                raise InputError(
                    f"the target {target} has no {precision}: it has {', '.join(PRECISIONS[target])}. "
                    "Export it by itself, and the others into another folder"
                )
        pairs += [(target, precision) for precision in PRECISIONS[target] if precision in precisions]
    return pairs


def check_kernels(pairs: Sequence[tuple[Target, Float]], exporter: str) -> None:
    """Refuse Fletcher's kernels for graphs that cannot have them.

    Args:
        pairs: targets and precisions of the export.
        exporter: name of the exporter.

    Raises:
        InputError: another exporter writes the graphs, none is for cuda, or one for cuda is in fp32.
    """
    if exporter != "fletcher":
        raise InputError(f"--kernels: graphs of the exporter {exporter} have its own operators: leave out --kernels")
    precisions = [precision for target, precision in pairs if target == "cuda"]
    if not precisions:
        raise InputError("--kernels: Fletcher's kernels are for NVIDIA GPUs: add --target cuda, or leave out --kernels")
    if "fp32" in precisions:
        raise InputError(
            "--kernels: Fletcher's kernels compute in fp16 and bf16, and a graph for cuda would be in fp32: choose "
            "--precision fp16 or bf16, and export fp32 into another folder"
        )


class GraphWriter:
    """Writer of graphs and weights into an artifact's folder.

    Attributes:
        maxima: see `Manifest.maxima`; empty unless a graph computes in a half type.
        written: size and digest of each file of weights.
        gaps: parts that Fletcher's kernels were asked for and cannot compute, in words.
    """

    def __init__(self, folder: Path, architecture: Architecture, card: ModelCard, emitter: Emitter = emit) -> None:
        """Write nothing yet.

        Args:
            folder: folder of the artifact.
            architecture: encoder and modules.
            card: card of the model.
            emitter: function that emits the graphs.
        """
        self._emitter = emitter
        self.maxima: dict[str, float] = {}
        self.gaps: list[str] = []
        self._folder = folder
        self._architecture = architecture
        self._card = card
        self._runnable = runnable_targets()
        self._islands: dict[tuple[Target, Float], frozenset[str]] = {}
        self.written: dict[str, FileInfo] = {}

    def find_islands(self, pairs: Sequence[tuple[Target, Float]], texts: Callable[[], Encodings]) -> None:
        """Find the nodes of graphs that must be fp32.

        Args:
            pairs: targets and precisions.
            texts: returns the texts on which maxima are recorded; called if a graph computes in a half type.
        """
        self._islands = {(target, name): self._find_islands(target, name, texts) for target, name in pairs}

    def write(self, pairs: Sequence[tuple[Target, Float]]) -> tuple[Variant, ...]:
        """Write graphs and their weights.

        Args:
            pairs: targets and precisions of `find_islands`, in the order of the manifest.
        """
        variants: dict[tuple[Target, Float], list[Variant]] = {}
        for name in (name for name in FLOATS if any(name == other for _, other in pairs)):
            targets = [target for target, other in pairs if other == name]
            emissions = {
                target: self._emit(target, choose(target, name, self._islands[target, name])) for target in targets
            }
            places = self._write_weights(self._folder / f"weights.{name}.safetensors", emissions.values())
            self.written[places.name] = places.info
            for target, parts in emissions.items():
                self.gaps += (gap for part in parts for gap in part.gaps if gap not in self.gaps)
                variants[target, name] = [self._write_variant(target, name, part, places) for part in parts]
        return tuple(variant for pair in pairs for variant in variants[pair])

    @property
    def output(self) -> str:
        """Return the name of the model's own output."""
        return self._architecture.output

    @property
    def token_outputs(self) -> tuple[str, ...]:
        """Return the names of the graphs' further outputs."""
        return tuple(output.name for output in self._architecture.token_outputs)

    def reference(self, encodings: Encodings) -> dict[str, NDArray[np.float32]]:
        """Return the results of the fp32 CPU graph.

        Args:
            encodings: token ids of the texts.

        Returns:
            The model's own output and the further ones by name, float32, (n, dimension), or (tokens, dimension) for an output
            with a row for each token.
        """
        (emission,) = self._emit("cpu", FP32)
        graph, outputs = emission.graph, (self.output, *self.token_outputs)
        feeds = [
            make_feeds(tuple(graph.inputs), emission.feeds, encodings.select(np.array(rows)))
            for rows in group_rows(encodings.lengths.tolist())
        ]
        model = graph.model(unwritten(graph.weights.values()))
        batches = compute_in_pieces(model, graph.weights, feeds, outputs)
        return {name: np.concatenate([batch[name] for batch in batches]) for name in outputs}

    def _emit(self, target: str, precision: Precision) -> tuple[Emission, ...]:
        return self._emitter(target, self._architecture, self._card.dimension, self._card.max_tokens, precision)

    def _write_weights(self, path: Path, emissions: Iterable[tuple[Emission, ...]]) -> WeightsFile:
        """Write one file for several graphs; weights with equal names are the same weight."""
        weights: dict[str, Weight] = {}
        for part in (part for parts in emissions for part in parts):
            weights.update(part.graph.weights)
        return write_weights(path, weights.values())

    def _write_variant(self, target: Target, name: Float, emission: Emission, places: WeightsFile) -> Variant:
        variant = f"{target}-{name}{emission.suffix}"
        # A cpu graph is loaded before the artifact is finished; other targets may not run on this machine.
        emission.graph.save(self._folder / f"{variant}.onnx", places, check=target != "cpu")
        precision = emission.graph.precision
        nodes = emission.graph.node_names
        return Variant(
            name=variant,
            target=target,
            precision=name,
            file=f"{variant}.onnx",
            weights=places.name,
            inputs=tuple(emission.graph.inputs),
            outputs=tuple(emission.graph.outputs),
            tolerance=default_tolerance(self._card, name),
            exporter=emission.exporter,
            canary="passed" if target in self._runnable else "unchecked",
            arithmetic=None if precision.arithmetic == name else precision.arithmetic,
            islands=tuple(node for node in nodes if node in precision.islands),
            feeds=emission.feeds,
            profiles=emission.profiles,
            memory=memory_shape(self._architecture, padded=target in ("tensorrt", "coreml"), in_blocks=target == "cpu"),
        )

    def _find_islands(self, target: str, name: Float, texts: Callable[[], Encodings]) -> frozenset[str]:
        precision = choose(target, name)
        if precision.arithmetic == "fp32":
            return frozenset()
        if (
            name == "bf16"
            and target == "cuda"
            and self._architecture.layers
            and is_causal(self._architecture, precision)
        ):
            return frozenset()  # its attention is in bf16, too, and nothing needs the maxima
        (emission,) = self._emit("tensorrt", FP32)
        model = emission.graph.model(unwritten(emission.graph.weights.values()))
        if not self.maxima:
            self.maxima = record_maxima(emission, model, texts())
        maxima = self.maxima
        if target in WIDE_STATISTICS:
            maxima = {value: maximum for value, maximum in maxima.items() if not value.endswith(SQUARES)}
        return find_islands(model, maxima, name)
