"""Rotary positions by transformers' `rope_parameters`, `rope_scaling` and `rope_theta`.

Source: `ROPE_INIT_FUNCTIONS` and `RotaryEmbeddingConfigMixin` in transformers' modeling_rope_utils.py. The frequencies are
computed in float32 in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...architecture import Rotary
from ..settings.reader import Config
from ..settings.values import frequencies

__all__ = ["RopeContext", "read_layer_ropes", "read_rope", "read_rope_settings", "rotary_of"]

#: Base of families that have no other default.
THETA = 10_000.0


@dataclass(frozen=True, slots=True)
class RopeContext:
    """Sizes on which frequencies depend.

    Attributes:
        width: width of a head.
        positions: `max_position_embeddings`.
    """

    width: int
    positions: int


class _Settings:
    """Settings of one kind of rotary positions; `finish` refuses those that were not read."""

    def __init__(self, config: Config, values: Mapping[str, Any], key: str) -> None:
        self.config, self._values, self._key = config, values, key
        self._read = {"rope_type", "type", "rope_theta"}
        if values.get("rope_type", "default") is None:
            raise config.refusal(f"rope_type of {key} is null, with which transformers fails")
        kinds = {str(values[name]) for name in ("rope_type", "type") if values.get(name) is not None}
        if len(kinds) > 1:
            raise config.refusal(f"{key} contradicts itself: rope_type and type are {values}")
        self.kind = kinds.pop() if kinds else "default"
        if self.optional("partial_rotary_factor") not in (None, 1.0):
            raise config.refusal(f"{key}: partial_rotary_factor is not 1, which is not authored for this family")

    def optional(self, name: str) -> float | None:
        """Return a number, or None if it is missing or null.

        Raises:
            CheckpointError: it is not a number above 0.
        """
        self._read.add(name)
        value = self._values.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise self.config.refusal(f"{self._key}: {name} is {value!r}, where a positive number was expected")
        return float(value)

    def number(self, name: str, default: float | None = None) -> float:
        """Return a number.

        Raises:
            CheckpointError: it is missing and has no default, or is not a number above 0.
        """
        value = self.optional(name)
        value = default if value is None else value
        if value is None:
            raise self.config.refusal(f"{self._key} lacks {name}, which the rotary scaling {self.kind!r} needs")
        return value

    def switch(self, name: str, default: bool) -> bool:
        """Return a switch."""
        self._read.add(name)
        value = self._values.get(name, default)
        if not isinstance(value, bool):
            raise self.config.refusal(f"{self._key}: {name} is {value!r}, where true or false was expected")
        return value

    def finish(self) -> None:
        """Refuse settings that were not read.

        Raises:
            CheckpointError: a setting may change the vectors.
        """
        if unknown := sorted(set(self._values) - self._read):
            raise self.config.refusal(
                f"{self._key} has {', '.join(unknown)}, which Fletcher does not know for the rotary scaling {self.kind!r}"
            )


def read_rope_settings(config: Config) -> Mapping[str, Any]:
    """Return the settings of the rotary positions that all layers share: `rope_parameters`, or the older `rope_scaling`.

    Raises:
        CheckpointError: the two contradict each other.
    """
    newer, older = _object(config, "rope_parameters"), _object(config, "rope_scaling")
    if newer and older and newer != older:
        raise config.refusal(f"contradicts itself: rope_parameters is {newer}, rope_scaling is {older}")
    return older or newer


def read_rope(
    config: Config, context: RopeContext, *, theta: float = THETA, settings: Mapping[str, Any] | None = None
) -> Rotary:
    """Return the rotary positions that all layers share.

    Args:
        config: configuration; `rope_parameters`, `rope_scaling` and `rope_theta` are read.
        context: sizes on which the frequencies depend.
        theta: default base.
        settings: settings of the positions. Default: those of `read_rope_settings`.

    Raises:
        CheckpointError: the scaling is not authored, or two keys contradict each other.
    """
    config.must_be("partial_rotary_factor", None, 1, 1.0)
    parameters = read_rope_settings(config) if settings is None else settings
    base, key = _base(config, parameters, "rope_theta", theta), _key(config)
    return rotary_of(config, parameters, context, "rotary", base, key)


def _key(config: Config) -> str:
    """Return the key that has the settings, for messages."""
    return "rope_scaling" if config.value("rope_scaling") else "rope_parameters"


def read_layer_ropes(
    config: Config, contexts: Mapping[str, RopeContext], keys: Mapping[str, tuple[str, float]]
) -> dict[str, Rotary]:
    """Return the rotary positions of each kind of layers, by the kind.

    Args:
        config: configuration; `rope_parameters` has an object for each kind.
        contexts: sizes by kind.
        keys: older key of the base, empty for none, and its default, by kind.

    Raises:
        CheckpointError: the scaling is not authored, or two keys contradict each other.
    """
    parameters = _object(config, "rope_parameters")
    if unknown := sorted(set(parameters) - set(contexts)):
        raise config.refusal(f"rope_parameters must be of {' and '.join(contexts)}, and has {', '.join(unknown)}")
    rotaries = {}
    for kind, context in contexts.items():
        values = parameters.get(kind)
        if values is not None and not isinstance(values, Mapping):
            raise config.refusal(f"rope_parameters of {kind} is {values!r}, where a JSON object was expected")
        key, theta = keys[kind]
        if not key and values is not None and "rope_theta" not in values:
            raise config.refusal(f"rope_parameters of {kind} lacks rope_theta, without which transformers fails")
        base = _base(config, values or {}, key, theta)
        rotaries[kind] = rotary_of(config, values or {}, context, f"rotary.{kind.partition('_')[0]}", base)
    return rotaries


def rotary_of(
    config: Config,
    values: Mapping[str, Any],
    context: RopeContext,
    name: str,
    theta: float,
    key: str = "rope_parameters",
) -> Rotary:
    """Return the rotary positions of one object of settings.

    Args:
        config: configuration, for messages.
        values: the settings.
        context: sizes on which the frequencies depend.
        name: name of the tables in the graph.
        theta: base.
        key: key of the settings, for messages.

    Raises:
        CheckpointError: the scaling is not authored, or a setting is missing, unknown or invalid.
    """
    settings = _Settings(config, values, key)
    if settings.kind not in _KINDS:
        raise config.refusal(
            f"{key} has the rope_type {settings.kind!r} ({dict(values)}), which is not authored; Fletcher authors "
            f"{', '.join(_KINDS)}"
        )
    if context.width % 2:
        raise config.refusal(f"heads have {context.width} elements, and rotary positions need an even number")
    pairs, factor = _KINDS[settings.kind](settings, context, theta)
    settings.finish()
    return Rotary(name, tuple(pairs.tolist()), factor=factor)


def _object(config: Config, key: str) -> Mapping[str, Any]:
    value = config.value(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise config.refusal(f"{key} is {value!r}, where a JSON object was expected")
    return value


def _base(config: Config, parameters: Mapping[str, Any], key: str, default: float) -> float:
    """Return the base: that of the parameters, else the older key's, else the default."""
    inner = parameters.get("rope_theta")
    if "rope_theta" in parameters and (isinstance(inner, bool) or not isinstance(inner, int | float) or not inner > 0):
        raise config.refusal(f"rope_theta is {inner!r}, where a positive number was expected")
    outer = None if not key or config.value(key) is None else config.number(key)
    if inner is not None and outer is not None and inner != outer:
        raise config.refusal(f"contradicts itself: rope_theta of rope_parameters is {inner}, {key} is {outer}")
    return float(inner if inner is not None else default if outer is None else outer)


_Pairs = tuple[NDArray[np.float32], float]


def _default(settings: _Settings, context: RopeContext, theta: float) -> _Pairs:
    return np.array(frequencies(theta, context.width), np.float32), 1.0


def _linear(settings: _Settings, context: RopeContext, theta: float) -> _Pairs:
    pairs, _ = _default(settings, context, theta)
    return pairs / np.float32(settings.number("factor")), 1.0


def _dynamic(settings: _Settings, context: RopeContext, theta: float) -> _Pairs:
    """Return the default's frequencies: they change only for texts longer than `max_position_embeddings`, which are cut."""
    settings.number("factor")
    return _default(settings, context, theta)


def _yarn(settings: _Settings, context: RopeContext, theta: float) -> _Pairs:
    """Return YaRN's frequencies and factor (Peng et al., arXiv 2309.00071)."""
    width, original = context.width, settings.number("original_max_position_embeddings", context.positions)
    factor = settings.number("factor", context.positions / original)
    mscale, all_dim = settings.optional("mscale"), settings.optional("mscale_all_dim")

    def scale(weight: float = 1.0) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    stated = settings.optional("attention_factor")
    inferred = scale(mscale) / scale(all_dim) if mscale and all_dim else scale()
    truncate = settings.switch("truncate", True)

    def dimension(rotations: float) -> float:
        return width * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low = dimension(settings.number("beta_fast", 32.0))
    high = dimension(settings.number("beta_slow", 1.0))
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    if low == high:
        high += 0.001  # as transformers, against a division by 0
    steps = np.arange(width // 2, dtype=np.float32)
    kept = 1 - np.clip((steps - np.float32(low)) / np.float32(high - low), 0, 1)
    pairs = np.array(frequencies(theta, width), np.float32)
    stretched = np.float32(1) / (np.float32(factor) * (np.float32(1) / pairs))
    mixed: NDArray[np.float32] = (stretched * (1 - kept) + pairs * kept).astype(np.float32)
    return mixed, inferred if stated is None else stated


def _llama3(settings: _Settings, context: RopeContext, theta: float) -> _Pairs:
    """Return Llama 3.1's frequencies: long waves are stretched, short ones kept, those between them mixed."""
    factor = np.float32(settings.number("factor"))
    low, high = settings.number("low_freq_factor"), settings.number("high_freq_factor")
    original = settings.number("original_max_position_embeddings", context.positions)
    if high <= low:
        raise settings.config.refusal(f"high_freq_factor is {high:g}, and must exceed low_freq_factor, {low:g}")
    pairs, _ = _default(settings, context, theta)
    waves = np.float32(2 * math.pi) / pairs
    scaled = np.where(waves > original / low, pairs / factor, pairs)
    share = ((np.float32(original) / waves - np.float32(low)) / np.float32(high - low)).astype(np.float32)
    mixed = (1 - share) * scaled / factor + share * scaled
    between = ~(waves < original / high) & ~(waves > original / low)
    return np.where(between, mixed, scaled).astype(np.float32), 1.0


#: Kinds of scaling: function from settings, sizes and base to frequencies and the factor of cosines and sines.
_KINDS: Mapping[str, Callable[[_Settings, RopeContext, float], _Pairs]] = MappingProxyType(
    {"default": _default, "linear": _linear, "dynamic": _dynamic, "yarn": _yarn, "llama3": _llama3}
)
