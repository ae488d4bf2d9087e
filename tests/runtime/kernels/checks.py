"""Comparisons of each operator with its reference, for a library that computes on the processor or on a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .references import (
    Array,
    gated_activation,
    head_norm_rotary,
    rounded,
    run_operator,
    skip_rms_norm,
)

__all__ = ["HEADS", "PRECISIONS", "WIDTHS", "Subject", "check_gate", "check_heads", "check_norm"]

PRECISIONS = ("fp16", "bf16")

#: Elements of a row: one thread, part of a warp, a whole warp, and 2, 4, 8 and 16 warps, with and without a rest.
WIDTHS = (8, 64, 1024, 1032, 2560, 4096, 8192, 16384)

#: Heads, key heads, size of a head.
HEADS = ((16, 8, 128), (4, 4, 64), (3, 1, 16), (2, 1, 96), (4, 2, 256), (5, 5, 80), (2, 2, 32))

#: Largest error relative to max(1, |value|): half a step of the type's last bit, and a little for float32 arithmetic.
STEPS = {"fp16": 2**-11 * 1.05, "bf16": 2**-8 * 1.02}


@dataclass(frozen=True, slots=True)
class Subject:
    """A library, and the provider that runs its operators."""

    library: Path
    provider: str

    def run(
        self, operator: str, inputs: list[object], outputs: int, precision: str, **attributes: object
    ) -> list[Array]:
        return run_operator(self.library, self.provider, operator, inputs, outputs, precision, **attributes)  # type: ignore[arg-type]


def _random(rng: np.random.Generator, precision: str, *shape: int) -> Array:
    return rounded(rng.normal(size=shape), precision)


def _assert_close(ours: Array, reference: Array, precision: str) -> None:
    assert ours.shape == reference.shape
    error = np.abs(ours - reference) / np.maximum(np.abs(reference), 2.0**-6)
    assert error.max() <= STEPS[precision], error.max()


def check_norm(subject: Subject, precision: str, width: int, *, with_residual: bool) -> None:
    """Compare `SkipRmsNorm` on a number of rows that does not fill the last block."""
    rng = np.random.default_rng(width)
    x, weight = 3 * _random(rng, precision, 3, 5, width), _random(rng, precision, width)
    x = rounded(x, precision)
    residual = _random(rng, precision, 3, 5, width) if with_residual else None
    normed, total = skip_rms_norm(x, weight, residual, 1e-5, precision)
    inputs = [x, weight] if residual is None else [x, weight, residual]
    found = subject.run("SkipRmsNorm", list(inputs), len(inputs) - 1, precision, epsilon=1e-5)
    _assert_close(found[0], normed, precision)
    if with_residual:
        np.testing.assert_array_equal(found[1], total)


def check_gate(subject: Subject, precision: str, activation: str, width: int) -> None:
    """Compare `GatedActivation`, also on large positive and negative values."""
    rng = np.random.default_rng(width)
    gate, up = 4 * _random(rng, precision, 7, width), _random(rng, precision, 7, width)
    gate[0, :8] = (0.0, -0.0, 20.0, -20.0, 100.0, -100.0, 1e-4, -1e-4)
    gate = rounded(gate, precision)
    reference = gated_activation(gate, up, activation)
    (found,) = subject.run("GatedActivation", [gate, up], 1, precision, activation=activation)
    assert found.shape == reference.shape
    # erf and tanh near -1 lose digits in float32: an error of 2^-24 there, times |x · up|.
    allowed = STEPS[precision] * np.maximum(np.abs(reference), 2.0**-14) + 2.0**-22 * np.abs(gate * up)
    assert (np.abs(found - reference) <= allowed).all(), np.max(np.abs(found - reference) / allowed)


def check_heads(
    subject: Subject,
    precision: str,
    heads: tuple[int, int, int],
    *,
    interleaved: bool,
    normed: bool,
    packed: bool,
    with_values: bool,
) -> None:
    """Compare `HeadNormRotary` on a rectangle, or on packed rows with positions.

    With values, keys and values are repeated for the heads of the queries.
    """
    count, kv_count, size = heads
    rng = np.random.default_rng(size)
    shape = (23,) if packed else (3, 7)
    rows = _random(rng, precision, *shape, (count + 2 * kv_count) * size)
    angles = rng.uniform(0, 6, (23, size // 2))
    tables = (rounded(np.cos(angles), precision), rounded(np.sin(angles), precision))
    norms = (_random(rng, precision, size), _random(rng, precision, size)) if normed else (None, None)
    positions = rng.permutation(23).astype(np.int32) if packed else None
    settings = {"repeats": count // kv_count if with_values else 1, "interleaved": interleaved, "epsilon": 1e-6}
    reference = head_norm_rotary(rows, tables, norms, positions, (count, kv_count), **settings)  # type: ignore[arg-type]
    inputs: list[object] = [rows if with_values else rows[..., : (count + kv_count) * size], *tables, *norms, positions]
    while inputs[-1] is None:
        inputs.pop()
    settings |= {"num_heads": count, "kv_num_heads": kv_count, "interleaved": int(interleaved)}
    found = subject.run("HeadNormRotary", inputs, 3 if with_values else 2, precision, **settings)
    for ours, theirs in zip(found, reference, strict=False):
        assert ours.shape == theirs.shape
        scale = np.maximum(np.abs(theirs), 2.0**-4)  # differences of products of about 1 in float32
        assert (np.abs(ours - theirs) <= STEPS[precision] * scale).all()
    if with_values:
        np.testing.assert_array_equal(found[2], reference[2])
