"""Interpretation of sentence-transformers' modules: pooling, sizes and normalization; neither prompts nor lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast, get_args

from ..card import PoolingMode
from ..errors import CardError
from .files import Module, SentenceTransformersFiles, read_module_config

__all__ = ["Modules", "PoolingConfig", "read_modules", "read_pooling", "require_module_config", "require_width"]


@dataclass(frozen=True, slots=True)
class Modules:
    """Modules after the encoder of an embedding model.

    Attributes:
        pooling: pooling modes, whose vectors are concatenated.
        include_prompt: whether a prompt's tokens are pooled too.
        dimension: length of the vectors after the last module.
        normalize: whether the vectors are scaled to L2 norm 1.
    """

    pooling: tuple[PoolingMode, ...]
    include_prompt: bool
    dimension: int
    normalize: bool


@dataclass(frozen=True, slots=True)
class PoolingConfig:
    """`config.json` of a Pooling module.

    Attributes:
        modes: pooling modes, whose vectors are concatenated.
        include_prompt: whether a prompt's tokens are pooled too.
        hidden: width of a token vector, if the file has it.
    """

    modes: tuple[PoolingMode, ...]
    include_prompt: bool
    hidden: object


# In the order in which sentence-transformers concatenates them (Pooling._LEGACY_POOLING_MODE_KWARGS).
_BOOLEANS: dict[str, PoolingMode] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_POOLING_KEYS = {*_BOOLEANS, "pooling_mode", "include_prompt", "embedding_dimension", "word_embedding_dimension"}


def read_modules(files: SentenceTransformersFiles, hidden: int) -> Modules | None:
    """Return the modules after the encoder, or None if the checkpoint has no modules.json.

    Args:
        files: files of the checkpoint.
        hidden: the encoder's hidden size.

    Raises:
        CardError: a file is missing or malformed, sizes do not fit, or Fletcher does not reproduce a module or its place in
            the list: such a checkpoint would give other vectors.
    """
    if files.modules is None:
        return None
    file, kinds = files.folder / "modules.json", files.kinds
    # Dropout does nothing at inference.
    order = [kind for kind in kinds if kind != "Dropout"]
    inner = [kind for kind in order if kind in ("Dense", "LayerNorm")]
    if order != ["Transformer", "Pooling", *inner, *["Normalize"] * ("Normalize" in order)]:
        raise CardError(
            f"{file}: its modules are {', '.join(kinds) or 'none'}; Fletcher reproduces Transformer, Pooling, any number "
            "of Dense and LayerNorm, and Normalize at the end"
        )
    places = dict(zip(kinds, files.modules, strict=True))
    if places["Transformer"].path:
        raise CardError(f"{file}: its Transformer lies in {places['Transformer'].path!r}, not beside modules.json")
    pooling = read_pooling(places["Pooling"])
    if pooling.hidden not in (None, hidden):
        raise CardError(
            f"{places['Pooling'].folder / 'config.json'}: pools vectors of {pooling.hidden} elements, but config.json's "
            f"hidden size is {hidden}"
        )
    dimension = hidden * len(pooling.modes)
    for module in files.modules:
        if module.kind == "Dense":
            dimension = _dense_width(module, dimension)
    return Modules(pooling.modes, pooling.include_prompt, dimension, normalize="Normalize" in kinds)


def read_pooling(module: Module) -> PoolingConfig:
    """Read the configuration of a Pooling module, in the newer or the older spelling.

    Raises:
        CardError: the file is missing or malformed, or has an unknown key or mode.
    """
    config, file = require_module_config(module), module.folder / "config.json"
    if unknown := sorted(set(config) - _POOLING_KEYS):
        raise CardError(f"{file}: `{unknown[0]}`: Fletcher does not know this key of a pooling config")
    include_prompt = config.get("include_prompt", True)
    if not isinstance(include_prompt, bool):
        raise CardError(f"{file}: `include_prompt`: must be true or false, not {include_prompt!r}")
    # The newer spelling wins, and no boolean set means mean, both as in sentence-transformers.
    modes = config.get("pooling_mode", [mode for key, mode in _BOOLEANS.items() if config.get(key) is True] or ["mean"])
    modes = [modes] if isinstance(modes, str) else modes
    if not isinstance(modes, Sequence) or not modes or any(mode not in get_args(PoolingMode) for mode in modes):
        raise CardError(
            f"{file}: `pooling_mode`: {modes!r} is not one or several of {', '.join(get_args(PoolingMode))}"
        )
    hidden = config.get("embedding_dimension", config.get("word_embedding_dimension"))
    return PoolingConfig(cast("tuple[PoolingMode, ...]", tuple(modes)), include_prompt, hidden)


def require_module_config(module: Module) -> dict[str, Any]:
    """Read a module's own `config.json`.

    Raises:
        CardError: the file is missing or malformed.
    """
    config = read_module_config(module)
    if config is None:
        raise CardError(f"{module.folder / 'config.json'} is missing, and modules.json names it")
    return config


def _dense_width(module: Module, width: int) -> int:
    """Return the width of a Dense module's output, after a check that it takes vectors of `width` elements."""
    config, file = require_module_config(module), module.folder / "config.json"
    if config.get("in_features") != width:
        raise CardError(f"{file}: takes {config.get('in_features')} elements, but gets {width}")
    return require_width(module, config)


def require_width(module: Module, config: Mapping[str, Any]) -> int:
    """Return `out_features` of a Dense module.

    Args:
        module: its entry in `modules.json`, for the message.
        config: its configuration.

    Raises:
        CardError: the value is not an integer.
    """
    width = config.get("out_features")
    if isinstance(width, bool) or not isinstance(width, int):
        raise CardError(f"{module.folder / 'config.json'}: `out_features`: must be an integer, not {width!r}")
    return width
