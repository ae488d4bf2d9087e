"""Interpretation of sentence-transformers' modules: pooling, sizes and normalization; neither prompts nor lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from ..card import PoolingMode
from ..errors import CardError
from .files import Module, SentenceTransformersFiles, read_module_config

__all__ = [
    "MODULE_TYPES",
    "Modules",
    "PoolingConfig",
    "Step",
    "read_modules",
    "read_pooling",
    "read_steps",
    "require_module_config",
    "require_width",
]

#: Package and file, in sentence-transformers 6, of each class that Fletcher converts.
_HOMES = {
    "Transformer": ("base.modules", "transformer"),
    "Dense": ("base.modules", "dense"),
    "Normalize": ("base.modules", "normalize"),
    "Pooling": ("sentence_transformer.modules", "pooling"),
    "LayerNorm": ("sentence_transformer.modules", "layer_norm"),
    "Dropout": ("sentence_transformer.modules", "dropout"),
    "WeightedLayerPooling": ("sentence_transformer.modules", "weighted_layer_pooling"),
    "MLMTransformer": ("sparse_encoder.modules", "mlm_transformer"),
    "SpladePooling": ("sparse_encoder.modules", "splade_pooling"),
    "LogitScore": ("cross_encoder.modules", "logit_score"),
    "MultiVectorMask": ("multi_vector_encoder.modules", "multi_vector_mask"),
}
_OLD = ("Transformer", "Pooling", "Dense", "LayerNorm", "Dropout", "Normalize", "WeightedLayerPooling")
_SPARSE = ("MLMTransformer", "SpladePooling")
#: Names of the modules' classes in modules.json, package included: those of version 6, and those of earlier versions, which
#: version 6 still reads (util/deprecated_import.py).
MODULE_TYPES = frozenset(
    {
        *(f"sentence_transformers.{package}.{kind}" for kind, (package, _) in _HOMES.items()),
        *(f"sentence_transformers.{package}.{file}.{kind}" for kind, (package, file) in _HOMES.items()),
        *(f"sentence_transformers.models.{kind}" for kind in _OLD),
        *(f"sentence_transformers.models.{kind}.{kind}" for kind in _OLD),
        *(f"sentence_transformers.sentence_transformer.modules.{kind}" for kind in _OLD),
        "sentence_transformers.sentence_transformer.modules.normalize.Normalize",
        *(f"sentence_transformers.sparse_encoder.models.{kind}" for kind in _SPARSE),
        *(f"sentence_transformers.sparse_encoder.models.{kind}.{kind}" for kind in _SPARSE),
    }
)

#: Feature that a module reads and writes: the tokens' vectors, or the text's.
Place = Literal["token_embeddings", "sentence_embedding"]


@dataclass(frozen=True, slots=True)
class Step:
    """A module after the encoder, and the vectors that it gets.

    Attributes:
        module: its entry in modules.json.
        place: vectors that it works on.
        width: elements of such a vector.
    """

    module: Module
    place: Place
    width: int


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
    steps = read_steps(files, hidden)
    pooling, dimension, normalize = None, hidden, False
    for step in steps:
        kind = step.module.kind
        if kind == "Pooling":
            pooling = read_pooling(step.module)
            dimension = step.width * len(pooling.modes)
        elif kind == "Dense":
            dimension = require_width(step.module, require_module_config(step.module))
        normalize = kind == "Normalize" if kind != "Dropout" else normalize
    if pooling is None:
        raise ValueError("read_steps gives one pooling")
    return Modules(pooling.modes, pooling.include_prompt, dimension, normalize)


def read_steps(files: SentenceTransformersFiles, hidden: int) -> tuple[Step, ...]:
    """Return the modules after the encoder in their order, with the vectors that each of them gets.

    Args:
        files: files of a checkpoint with modules.json.
        hidden: the encoder's hidden size.

    Raises:
        CardError: a file is missing or malformed, sizes do not fit, or Fletcher does not reproduce a module or its place.
    """
    modules, kinds, file = files.modules or (), files.kinds, files.folder / "modules.json"
    if not modules or modules[0].kind != "Transformer" or kinds.count("Pooling") != 1:
        raise _unsupported(file, kinds)
    if modules[0].path:
        raise CardError(f"{file}: its Transformer lies in {modules[0].path!r}, not beside modules.json")
    steps: list[Step] = []
    place: Place = "token_embeddings"
    width = hidden
    for index, module in enumerate(modules[1:]):
        steps.append(Step(module, place, width))
        if module.kind == "WeightedLayerPooling" and index == 0:
            continue
        if module.kind == "Pooling":
            width *= len(_pooling_of(module, width).modes)
            place = "sentence_embedding"
        elif module.kind == "Dense":
            _check_place(module, place)
            width = _dense_width(module, width)
        elif module.kind == "Normalize":
            _check_place(module, place)
        elif module.kind not in ("LayerNorm", "Dropout") or place == "token_embeddings":
            raise _unsupported(file, kinds)
    return tuple(steps)


def _unsupported(file: Path, kinds: Sequence[str]) -> CardError:
    return CardError(
        f"{file}: its modules are {', '.join(kinds) or 'none'}; Fletcher reproduces Transformer, one Pooling, and Dense and "
        "Normalize before or after it, LayerNorm and Dropout after it, WeightedLayerPooling after the Transformer"
    )


def _pooling_of(module: Module, width: int) -> PoolingConfig:
    pooling = read_pooling(module)
    if pooling.hidden != width:
        raise CardError(
            f"{module.folder / 'config.json'}: `embedding_dimension`: pools vectors of {pooling.hidden} elements, but gets "
            f"{width}: config.json's hidden size, or the width of the module before"
        )
    return pooling


def _check_place(module: Module, place: Place) -> None:
    """Refuse a module that reads or writes other vectors than those that reach its place in the list."""
    config = read_module_config(module) or {}
    source = config.get("module_input_name", "sentence_embedding")
    target = config.get("module_output_name")
    target = source if target is None else target
    if (source, target) != (place, place):
        raise CardError(
            f"{module.folder / 'config.json'}: module_input_name is {source!r} and module_output_name {target!r}; Fletcher "
            f"reproduces {module.kind} at this place of modules.json with {place!r} for both"
        )


def read_pooling(module: Module) -> PoolingConfig:
    """Read the configuration of a Pooling module, in the newer or the older spelling.

    Raises:
        CardError: the file is missing or malformed, or has an unknown mode.
    """
    config, file = require_module_config(module), module.folder / "config.json"
    include_prompt = config.get("include_prompt", True)
    if not isinstance(include_prompt, bool):
        raise CardError(f"{file}: `include_prompt`: must be true or false, not {include_prompt!r}")
    for key in _BOOLEANS:
        if not isinstance(config.get(key), bool | None):
            raise CardError(f"{file}: `{key}`: must be true or false, not {config[key]!r}")
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
        CardError: the value is not a positive integer.
    """
    width = config.get("out_features")
    if isinstance(width, bool) or not isinstance(width, int) or width < 1:
        raise CardError(f"{module.folder / 'config.json'}: `out_features`: must be a positive integer, not {width!r}")
    return width
