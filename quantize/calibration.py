"""`calibrate`: measures the activations of a model on real texts, and chooses their ranges. It changes no graph."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.closing import Closing
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.errors import ArtifactError, InputError
from fletcher.runtime.loading import open_tokenizer
from fletcher.runtime.providers.mlas.graph import CpuGraph
from fletcher.runtime.providers.mlas.mapped import LARGE

from .graph.activations import Activations, even_steps, loud_columns, lower_bounds, smoothing_factors, uneven_steps
from .graph.editor import GraphEditor
from .graph.matrices import find_matrices, float_variant
from .recipe import MatrixScheme, Recipe
from .samples import evenly_spaced

__all__ = ["FEWEST_TEXTS", "calibrate", "choose_range", "encode_calibration", "needs_calibration"]

#: Fewest texts: with fewer, the largest activation is a matter of chance.
FEWEST_TEXTS = 16

#: Most texts: more of them take time and do not change a range.
MOST_TEXTS = 256

#: Bins of a histogram, and the levels of eight bits.
BINS, LEVELS = 2048, 256

#: Levels of the divergence (`entropy`), as in ONNX Runtime's and TensorRT's calibrators.
ENTROPY_LEVELS = 128


def needs_calibration(recipe: Recipe, schemes: Iterable[MatrixScheme]) -> bool:
    """Return whether the recipe needs statistics of the activations."""
    return "int8-static" in schemes or recipe.smoothquant is not None or recipe.bias_correction or recipe.outliers > 0


def encode_calibration(artifact: Artifact, texts: Sequence[str]) -> Encodings:
    """Return the token ids of the texts that calibrate, at most `MOST_TEXTS`.

    Raises:
        InputError: there are too few texts, or all have the same length.
    """
    if len(texts) < FEWEST_TEXTS:
        raise InputError(
            f"{len(texts)} calibration texts are too few: give at least {FEWEST_TEXTS} with --texts, or omit --texts to use "
            "the built-in texts"
        )
    tokenizer = open_tokenizer(artifact)
    chosen = [texts[row] for row in evenly_spaced(len(texts), MOST_TEXTS)]
    encodings = tokenizer.encode(chosen)
    lengths = encodings.lengths
    if lengths.min() == lengths.max():
        raise InputError(
            f"all {len(chosen)} calibration texts have {lengths[0]} tokens, which says nothing about other lengths: "
            "give texts of different lengths"
        )
    return encodings


def calibrate(
    artifact: Artifact,
    recipe: Recipe,
    schemes: Mapping[str, MatrixScheme],
    texts: Sequence[str],
    *,
    folder: Path | None = None,
) -> dict[str, Activations]:
    """Run the float32 graph for processors over texts, one at a time, and return each product's activations by its name.

    Args:
        artifact: the artifact of that graph.
        recipe: chooses the ranges.
        schemes: schemes of the matrices whose activations are measured, by name.
        texts: texts like those that the model will embed.
        folder: folder on whose disk the activations are kept until the end. Default: the system's for temporary files.

    Raises:
        InputError: there are too few texts, or all have the same length.
        ArtifactError: an activation is NaN or infinite.
    """
    variant = float_variant(artifact)
    graph = GraphEditor(artifact, variant)
    inputs = {node.name: node.input[0] for node in graph.nodes if node.op_type == "MatMul"}
    places = {
        place.matrix.name: place
        for place in find_matrices(graph)
        if place.matrix.kind == "product" and place.matrix.name in schemes
    }
    sources = {name: inputs[place.node] for name, place in places.items()}
    if not sources:  # a static embedding, whose only matrix is its table
        return {}
    encodings = encode_calibration(artifact, texts)
    values = sorted(set(sources.values()))
    is_large = (artifact.path / variant.weights).stat().st_size >= LARGE
    runner = CpuGraph(graph.expose(values), artifact.path, mapped=is_large)
    names = [info.name for info in variant.inputs]
    activations = {}
    with contextlib.ExitStack() as stack:
        rows_by_value = {value: stack.enter_context(_Rows(folder)) for value in values}
        for row in range(len(encodings)):
            feeds = encodings.select(np.array([row])).tensors(names)
            for value, array in zip(values, runner.run(feeds, values), strict=True):
                if not np.isfinite(array).all():
                    raise ArtifactError(
                        f"{value} of {artifact.path} is NaN or infinite on calibration text {row + 1} of {len(encodings)}: "
                        "run `fletcher-convert model verify` on the artifact; its checkpoint may be damaged"
                    )
                rows_by_value[value].add(array.reshape(-1, array.shape[-1]))
        bounded = lower_bounds(graph.nodes)
        for value, rows in rows_by_value.items():
            readers = [name for name, source in sources.items() if source == value]
            weights = [np.asarray(graph.values(places[name].weight), np.float32) for name in readers]
            # Activations with a lower bound differ between rows; dividing their columns made the scales of activations and of
            # weights coarser.
            activations[value] = _summary(rows.take(), [] if value in bounded else weights, recipe)
    return {name: activations[value] for name, value in sources.items()}


class _Rows(Closing):
    """`_Rows`: all rows of one tensor, in a file without a name. 256 texts take 60 MB for the widest tensor of MiniLM."""

    def __init__(self, folder: Path | None) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  `close` ends it
        self._width = 0

    def add(self, rows: NDArray[np.float32]) -> None:
        self._width = rows.shape[1]
        np.ascontiguousarray(rows).tofile(self._file)

    def take(self) -> NDArray[np.float32]:
        """Return all rows, (rows, in), mapped from the file. They stay valid when it is closed."""
        self._file.flush()
        return np.memmap(self._file, np.float32, "r").reshape(-1, self._width)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _summary(rows: NDArray[np.float32], weights: Sequence[NDArray[np.float32]], recipe: Recipe) -> Activations:
    """Return the statistics of activations that the rewriting needs.

    Args:
        rows: the activations, (rows, in).
        weights: the matrices that read them, (in, out) each, if smoothing may move spread into them; empty otherwise.
        recipe: chooses smoothing, outliers and ranges.
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
    """Return the smallest and the largest value that the quantized type represents.

    Args:
        values: observed values, any shape, not empty.
        recipe: the method is its `calibration`: `minmax` takes the whole range; `percentile` omits the rarest values, half
            of them at each end; `mse` takes the part of the range with the least squared error; `entropy` takes the range,
            symmetric around 0, whose levels have the least Kullback-Leibler divergence from the histogram, as TensorRT does.
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
    # Each end shrinks toward zero separately: the lower end of Gelu is -0.17 for any upper end.
    best = min((high * share for share in shares), key=lambda end: _squared_error(counts, edges, low, end))
    first = min((low * share for share in shares), key=lambda end: _squared_error(counts, edges, end, best))
    return float(first), float(best)


def _squared_error(counts: NDArray[np.int64], edges: NDArray[np.float64], low: float, high: float) -> float:
    """Return the squared error of rounding and clipping, summed over the histogram."""
    middles = (edges[:-1] + edges[1:]) / 2
    step = max(high - low, 1e-20) / (LEVELS - 1)
    clipped = np.clip(middles, low, high) - middles
    inside = clipped == 0
    return float((counts * np.where(inside, step**2 / 12, np.square(clipped))).sum())


def _divergence(counts: NDArray[np.int64], edges: NDArray[np.float64], limit: float) -> float:
    """Return the divergence of the quantized histogram within ±limit from the histogram, whose clipped mass is at the ends.

    An empty bin stays empty: the mass of a level is spread over its other bins, as ONNX Runtime and TensorRT do.
    """
    middles = (edges[:-1] + edges[1:]) / 2
    inside = np.abs(middles) <= limit
    mass = counts[inside].astype(np.float64)
    clipped = mass.copy()
    clipped[0] += counts[middles < -limit].sum()
    clipped[-1] += counts[middles > limit].sum()
    groups = np.minimum((np.arange(len(mass)) * ENTROPY_LEVELS) // len(mass), ENTROPY_LEVELS - 1)
    filled = clipped > 0
    sums = np.bincount(groups, mass, ENTROPY_LEVELS)
    sizes = np.bincount(groups, filled, ENTROPY_LEVELS)
    codes = np.where(filled, sums[groups] / np.maximum(sizes[groups], 1), 0)
    p, q = clipped / clipped.sum(), codes / max(codes.sum(), 1)
    return float((p[filled] * np.log(p[filled] / np.maximum(q[filled], 1e-12))).sum())
