"""Values of `config.json` that several families read the same way: switches, old and new names, rotary positions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fletcher.runtime.errors import CheckpointError

from ...architecture import Rotary
from .reader import Config

__all__ = ["agreed", "frequencies", "head_size", "positive", "read_rotary", "switch"]


def switch(config: Config, file: Path, key: str, default: bool) -> bool:
    """Return a switch.

    Raises:
        CheckpointError: the value is neither true nor false.
    """
    value = config.value(key, default)
    if not isinstance(value, bool):
        raise CheckpointError(f"{file}: {key} is {value!r}, where true or false was expected")
    return value


def agreed(config: Config, file: Path, *keys: str, default: Any = None) -> Any:
    """Return the value of a quantity that has several names; a file may have more than one of them.

    Raises:
        CheckpointError: two values contradict each other.
    """
    values = {key: value for key in keys if (value := config.value(key)) is not None}
    if len(set(map(repr, values.values()))) > 1:
        raise CheckpointError(f"{file} contradicts itself: {', '.join(f'{k} is {v!r}' for k, v in values.items())}")
    return next(iter(values.values()), default)


def head_size(file: Path, hidden: int, heads: int) -> int:
    """Return the width of a head.

    Raises:
        CheckpointError: the heads do not divide the hidden size.
    """
    if hidden % heads:
        raise CheckpointError(f"{file}: the hidden size {hidden} is not a multiple of the {heads} attention heads")
    return hidden // heads


def frequencies(theta: float, width: int) -> tuple[float, ...]:
    """Return theta ** (-2i / width) for each pair i, in float32 and in the order of operations that PyTorch models use.

    The order matters: at position 8000 the last bit of a frequency moves the angle by 5e-4.

    Args:
        theta: base.
        width: rotated elements of a head.
    """
    exponents = np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
    # In float64 and rounded once, which is what an exact float32 power gives.
    powers = np.power(np.float64(np.float32(theta)), exponents.astype(np.float64)).astype(np.float32)
    return tuple((np.float32(1) / powers).tolist())


def read_rotary(parameters: object, file: Path, name: str, width: int, theta: float) -> Rotary:
    """Return rotary positions by transformers' `rope_parameters`, or by one layer type's part of them.

    Args:
        parameters: value in the configuration; None is the default.
        file: the configuration, for messages.
        name: name of the tables in the graph.
        width: width of a head.
        theta: default base.

    Raises:
        CheckpointError: the scaling is not authored, or a key is unknown.
    """
    if parameters is None:
        parameters = {}
    if not isinstance(parameters, Mapping):
        raise CheckpointError(f"{file}: the rotary parameters are {parameters!r}, where a JSON object was expected")
    values: Mapping[str, Any] = parameters
    if unknown := sorted(set(values) - {"factor", "partial_rotary_factor", "rope_theta", "rope_type", "type"}):
        raise CheckpointError(f"{file}: the rotary parameters {parameters!r} have unknown keys: {', '.join(unknown)}")
    kind = values.get("rope_type", values.get("type", "default"))
    if kind not in ("default", "linear"):
        raise CheckpointError(
            f"{file}: the rotary parameters have the rope_type {kind!r} ({dict(values)}), which is not authored for this "
            "family; Fletcher authors default and linear"
        )
    if values.get("partial_rotary_factor") not in (None, 1, 1.0):
        raise CheckpointError(
            f"{file}: partial_rotary_factor is {values['partial_rotary_factor']!r}, only 1 is authored"
        )
    pairs = frequencies(positive(values.get("rope_theta", theta), file, "rope_theta"), width)
    if kind == "linear":
        factor = np.float32(positive(values.get("factor"), file, "the rotary factor"))
        pairs = tuple((np.array(pairs, np.float32) / factor).tolist())
    return Rotary(name, pairs)


def positive(value: object, file: Path, what: str) -> float:
    """Return a positive real number.

    Raises:
        CheckpointError: the value is not a positive number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise CheckpointError(f"{file}: {what} is {value!r}, where a positive number was expected")
    return float(value)
