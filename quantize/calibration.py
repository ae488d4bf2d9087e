"""What a model's activations are on real texts, and the ranges that follow. It changes no graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.errors import ArtifactError, InputError
from fletcher.runtime.providers.mlas.graph import CpuGraph
from fletcher.runtime.tokenizing.tokenizer import Tokenizer

from .graph.activations import LOWER_BOUNDS, Activations, even_steps, loud_columns, smoothing_factors, uneven_steps
from .graph.editor import GraphEditor
from .graph.matrices import find_matrices, float_variant
from .recipe import MatrixScheme, Recipe

__all__ = ["FEWEST_TEXTS", "calibrate", "choose_range", "needs_calibration"]

#: With fewer, the largest activation is an accident.
FEWEST_TEXTS = 16

#: Texts beyond this add time and change no range.
MOST_TEXTS = 256

#: Bins of a histogram, and the levels of eight bits.
BINS, LEVELS = 2048, 256

#: Levels whose divergence is looked at, as in ONNX Runtime's and TensorRT's calibrators.
ENTROPY_LEVELS = 128


def needs_calibration(recipe: Recipe, schemes: Iterable[MatrixScheme]) -> bool:
    """Whether the recipe wants to know activations."""
    return "int8-static" in schemes or recipe.smoothquant is not None or recipe.bias_correction or recipe.outliers > 0


def calibrate(
    artifact: Artifact, recipe: Recipe, schemes: Mapping[str, MatrixScheme], texts: Sequence[str]
) -> dict[str, Activations]:
    """Runs the float32 graph for processors over the texts, one at a time.

    Args:
        artifact: has that graph.
        recipe: says how ranges are chosen.
        schemes: the matrices whose activations are wanted.
        texts: real ones.

    Raises:
        InputError: too few texts, or all of one length.
        ArtifactError: an activation is NaN or infinite.
    """
    if len(texts) < FEWEST_TEXTS:
        raise InputError(
            f"{len(texts)} calibration texts are too few, at least {FEWEST_TEXTS} are needed: give more with --texts, "
            "or leave it out for the built-in ones"
        )
    variant = float_variant(artifact)
    graph = GraphEditor(artifact, variant)
    inputs = {node.name: node.input[0] for node in graph.nodes if node.op_type == "MatMul"}
    places = {
        place.matrix.name: place
        for place in find_matrices(graph)
        if place.matrix.kind == "product" and place.matrix.name in schemes
    }
    sources = {name: inputs[place.node] for name, place in places.items()}
    tokenizer = Tokenizer(artifact.tokenizer_file, artifact.manifest.card.max_tokens)
    chosen = [texts[row] for row in np.unique(np.linspace(0, len(texts) - 1, min(len(texts), MOST_TEXTS)).astype(int))]
    encodings = tokenizer.encode(chosen)
    lengths = encodings.lengths
    if lengths.min() == lengths.max():
        raise InputError(
            f"all {len(chosen)} calibration texts have {lengths[0]} tokens, which says nothing of other lengths: "
            "give texts of different lengths"
        )
    values = sorted(set(sources.values()))
    runner = CpuGraph(graph.expose(values), artifact.path)
    names = [info.name for info in variant.inputs]
    seen = {value: _Seen() for value in values}
    for row in range(len(encodings)):
        feeds = encodings.select(np.array([row])).tensors(names)
        for value, array in zip(values, runner.run(feeds, values), strict=True):
            if not np.isfinite(array).all():
                raise ArtifactError(
                    f"{value} of {artifact.path} is NaN or infinite on calibration text {row + 1} of {len(encodings)}: "
                    "run `fletcher-convert model verify` on the artifact; its checkpoint may be damaged"
                )
            seen[value].add(array.reshape(-1, array.shape[-1]))
    bounded = {out for node in graph.nodes if node.op_type in LOWER_BOUNDS for out in node.output}
    found = {}
    for value, rows in seen.items():
        readers = [name for name, source in sources.items() if source == value]
        weights = [np.asarray(graph.values(places[name].weight), np.float32) for name in readers]
        # What is bounded below has its spread between its rows; dividing its columns made both kinds of scales coarser.
        found[value] = _summary(rows.take(), [] if value in bounded else weights, recipe)
    return {name: found[value] for name, value in sources.items()}


class _Seen:
    """What was seen of one tensor. Rows are kept: 256 texts of MiniLM take 60 MB for its widest one."""

    def __init__(self) -> None:
        self._rows: list[NDArray[np.float32]] = []

    def add(self, rows: NDArray[np.float32]) -> None:
        self._rows.append(rows)

    def take(self) -> NDArray[np.float32]:
        """All rows, which are given away, (rows, in)."""
        rows = np.concatenate(self._rows)
        self._rows = []
        return rows


def _summary(rows: NDArray[np.float32], weights: Sequence[NDArray[np.float32]], recipe: Recipe) -> Activations:
    """What is to be known of activations.

    Args:
        rows: (rows, in).
        weights: what reads them, where smoothing may move their spread into it.
        recipe: how.
    """
    largest = np.abs(rows).max(axis=0)
    factors = None
    if recipe.smoothquant is not None and weights:
        factors = smoothing_factors(largest, weights, recipe.smoothquant)
        rows = rows / factors
    loud = loud_columns(largest, recipe.outliers)
    quiet = np.setdiff1d(np.arange(rows.shape[1]), loud)
    low, high = choose_range(rows[:, quiet], recipe) if len(quiet) else (0.0, 0.0)
    steps = even_steps(low, high) if recipe.target in ("cuda", "tensorrt") else uneven_steps(low, high)
    mean, coded = (part.mean(axis=0, dtype=np.float64).astype(np.float32) for part in (rows, steps.round(rows)))
    return Activations(factors, loud, low, high, mean, coded)


def choose_range(values: NDArray[np.float32], recipe: Recipe) -> tuple[float, float]:
    """The smallest and the largest value that shall be representable.

    Args:
        values: what was seen, any shape, not empty.
        recipe: its `calibration`: `minmax` takes all; `percentile` leaves out what is rarer than the recipe says, half of it
            at each end; `mse` takes the share of the range with the least squared error; `entropy` the one, even around 0,
            whose levels diverge least from what was seen (Kullback and Leibler, as TensorRT does it).
    """
    low, high = float(values.min()), float(values.max())
    if recipe.calibration == "minmax" or low == high:
        return low, high
    if recipe.calibration == "percentile":
        rest = (100 - recipe.percentile) / 2
        cut = np.percentile(values, [rest, 100 - rest])
        return float(cut[0]), float(cut[1])
    shares = np.linspace(1.0, 0.1, 46)
    if recipe.calibration == "entropy":
        largest = max(high, -low)
        counts, edges = np.histogram(values, BINS, (-largest, largest))
        limit = min((largest * share for share in shares), key=lambda end: _divergence(counts, edges, end))
        return max(low, -float(limit)), min(high, float(limit))
    counts, edges = np.histogram(values, BINS, (low, high))
    # Each end shrinks towards zero by itself: Gelu's lower end is 0.17 whatever the upper one is.
    best = min((high * share for share in shares), key=lambda end: _squared_error(counts, edges, low, end))
    first = min((low * share for share in shares), key=lambda end: _squared_error(counts, edges, end, best))
    return float(first), float(best)


def _squared_error(counts: NDArray[np.int64], edges: NDArray[np.float64], low: float, high: float) -> float:
    """Of rounding and clipping, over the histogram."""
    middles = (edges[:-1] + edges[1:]) / 2
    step = max(high - low, 1e-20) / (LEVELS - 1)
    clipped = np.clip(middles, low, high) - middles
    inside = clipped == 0
    return float((counts * np.where(inside, step**2 / 12, np.square(clipped))).sum())


def _divergence(counts: NDArray[np.int64], edges: NDArray[np.float64], limit: float) -> float:
    """Of what the levels keep of the histogram within ±limit from the histogram, clipped mass at the ends.

    A bin that is empty stays so: what a level holds is spread over its other bins (as ONNX Runtime and TensorRT do it).
    """
    middles = (edges[:-1] + edges[1:]) / 2
    inside = np.abs(middles) <= limit
    kept = counts[inside].astype(np.float64)
    wanted = kept.copy()
    wanted[0] += counts[middles < -limit].sum()
    wanted[-1] += counts[middles > limit].sum()
    groups = np.minimum((np.arange(len(kept)) * ENTROPY_LEVELS) // len(kept), ENTROPY_LEVELS - 1)
    filled = wanted > 0
    sums = np.bincount(groups, kept, ENTROPY_LEVELS)
    sizes = np.bincount(groups, filled, ENTROPY_LEVELS)
    codes = np.where(filled, sums[groups] / np.maximum(sizes[groups], 1), 0)
    p, q = wanted / wanted.sum(), codes / max(codes.sum(), 1)
    return float((p[filled] * np.log(p[filled] / np.maximum(q[filled], 1e-12))).sum())
