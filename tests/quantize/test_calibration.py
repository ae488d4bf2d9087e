"""Ranges of observed values, compared with ONNX Runtime's calibrators and with a search over the values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnxruntime.quantization.calibrate import HistogramCollector

from fletcher.quantize.calibration import choose_range
from fletcher.quantize.graph.activations import uneven_steps
from fletcher.quantize.recipe import Recipe

RANDOM = np.random.default_rng(5)
#: Values like the output of a layer norm: normally distributed, with a few columns of far larger values.
TAILED = np.concatenate([RANDOM.normal(size=60_000), RANDOM.normal(size=200) * 12]).astype(np.float32)
#: Values like the output of Gelu: bounded below, with a long tail above.
BOUNDED = np.concatenate([RANDOM.uniform(-0.17, 0, 30_000), RANDOM.exponential(0.5, 30_000)]).astype(np.float32)


def _recipe(**settings: Any) -> Recipe:
    return Recipe(name="x", scheme="int8-static", **settings)


def _onnxruntime(values: NDArray[np.float32], **settings: Any) -> tuple[float, float]:
    collector = HistogramCollector(
        symmetric=False, num_bins=2048, num_quantized_bins=128, scenario="same", **{"percentile": 99.999, **settings}
    )
    collector.collect({"x": [values]})
    low, high = collector.compute_collection_result()["x"][:2]
    return float(low), float(high)


def _error(values: NDArray[np.float32], low: float, high: float) -> float:
    return float(np.square(uneven_steps(low, high).round(values) - values).mean())


@pytest.mark.parametrize("values", [TAILED, BOUNDED], ids=["tailed", "bounded"])
def test_minmax_is_the_smallest_and_the_largest(values: NDArray[np.float32]) -> None:
    assert choose_range(values, _recipe()) == (values.min(), values.max())


@pytest.mark.parametrize("percentile", [99.0, 99.9])
@pytest.mark.parametrize("values", [TAILED, BOUNDED], ids=["tailed", "bounded"])
def test_percentile_is_that_of_onnxruntime(values: NDArray[np.float32], percentile: float) -> None:
    chosen = choose_range(values, _recipe(calibration="percentile", percentile=percentile))
    expected = _onnxruntime(values, method="percentile", percentile=percentile)
    assert np.allclose(chosen, expected, atol=3 * (values.max() - values.min()) / 2048)


@pytest.mark.parametrize(
    "values", [BOUNDED, RANDOM.laplace(size=60_000).astype(np.float32)], ids=["bounded", "laplace"]
)
def test_entropy_clips_a_tail_as_onnxruntime_does(values: NDArray[np.float32]) -> None:
    chosen = choose_range(values, _recipe(calibration="entropy"))
    assert chosen[1] < values.max()
    assert np.allclose(chosen, _onnxruntime(values, method="entropy"), rtol=0.1)


@pytest.mark.parametrize("values", [TAILED, BOUNDED], ids=["tailed", "bounded"])
def test_mse_is_as_good_as_the_best_of_a_search_over_the_values(values: NDArray[np.float32]) -> None:
    low, high = choose_range(values, _recipe(calibration="mse"))
    shares = np.linspace(0.05, 1, 60)
    best = min(_error(values, float(values.min()), float(values.max() * share)) for share in shares)
    best = min(best, *(_error(values, float(values.min() * share), float(values.max() * share)) for share in shares))
    assert _error(values, low, high) <= 1.05 * best
    assert _error(values, low, high) <= _error(values, float(values.min()), float(values.max()))


def test_equal_values_have_a_range() -> None:
    for calibration in ("minmax", "percentile", "entropy", "mse"):
        assert choose_range(np.full(100, 2.5, np.float32), _recipe(calibration=calibration)) == (2.5, 2.5)
