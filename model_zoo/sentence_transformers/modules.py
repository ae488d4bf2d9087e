"""What sentence-transformers' modules.json and the modules' configs say. It knows no prompts and no lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

import msgspec

from ..card import PoolingMode
from ..errors import CardError

__all__ = ["Modules", "read_json", "read_modules"]


@dataclass(frozen=True, slots=True)
class Modules:
    """What follows the encoder.

    Attributes:
        pooling: the pooling modes, whose vectors are concatenated.
        include_prompt: whether a prompt's tokens are pooled too.
        dimension: length of the vectors that come out at the end.
        normalize: whether they are scaled to L2 norm 1.
    """

    pooling: tuple[PoolingMode, ...]
    include_prompt: bool
    dimension: int
    normalize: bool


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


class _Module(msgspec.Struct):
    path: str
    type: str


class _Dense(msgspec.Struct):
    in_features: int
    out_features: int


_T = TypeVar("_T")


def read_json(file: Path, kind: type[_T]) -> _T | None:
    """A JSON file as a type, or None if there is no file.

    Raises:
        CardError: it is not JSON or has a key of a wrong type; the message names the file and the key.
    """
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CardError(f"{file} cannot be read: {error.strerror}") from error
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise CardError(f"{file}: {error}") from error


def read_modules(folder: Path, hidden: int) -> Modules | None:
    """What a checkpoint's modules.json and its modules' configs say, or None if there is no modules.json.

    Args:
        folder: the checkpoint.
        hidden: the encoder's hidden size.

    Raises:
        CardError: a file is missing or malformed, sizes do not fit, or a module or its place is one that Fletcher does
            not reproduce: such a checkpoint would give other vectors.
    """
    file = folder / "modules.json"
    modules = read_json(file, list[_Module])
    if modules is None:
        return None
    kinds = [module.type.rpartition(".")[2] for module in modules]
    # Dropout does nothing at inference.
    order = [kind for kind in kinds if kind != "Dropout"]
    inner = [kind for kind in order if kind in ("Dense", "LayerNorm")]
    if order != ["Transformer", "Pooling", *inner, *["Normalize"] * ("Normalize" in order)]:
        raise CardError(
            f"{file}: its modules are {', '.join(kinds) or 'none'}; Fletcher reproduces Transformer, Pooling, any number "
            "of Dense and LayerNorm, and Normalize at the end"
        )
    places = dict(zip(kinds, modules, strict=True))
    if places["Transformer"].path:
        raise CardError(f"{file}: its Transformer lies in {places['Transformer'].path!r}, not beside modules.json")
    pooling, include_prompt = _read_pooling(folder / places["Pooling"].path / "config.json", hidden)
    dimension = hidden * len(pooling)
    for kind, module in zip(kinds, modules, strict=True):
        if kind == "Dense":
            dimension = _read_dense(folder / module.path / "config.json", dimension)
    return Modules(pooling=pooling, include_prompt=include_prompt, dimension=dimension, normalize="Normalize" in kinds)


def _read_pooling(file: Path, hidden: int) -> tuple[tuple[PoolingMode, ...], bool]:
    config = read_json(file, dict[str, Any])
    if config is None:
        raise CardError(f"{file} is missing, and modules.json names it")
    if unknown := sorted(set(config) - _POOLING_KEYS):
        raise CardError(f"{file}: `{unknown[0]}`: Fletcher does not know this key of a pooling config")
    size = config.get("embedding_dimension", config.get("word_embedding_dimension", hidden))
    if size != hidden:
        raise CardError(f"{file}: pools vectors of {size} elements, but config.json's hidden size is {hidden}")
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
    return cast("tuple[PoolingMode, ...]", tuple(modes)), include_prompt


def _read_dense(file: Path, dimension: int) -> int:
    dense = read_json(file, _Dense)
    if dense is None:
        raise CardError(f"{file} is missing, and modules.json names it")
    if dense.in_features != dimension:
        raise CardError(f"{file}: takes {dense.in_features} elements, but gets {dimension}")
    return dense.out_features
