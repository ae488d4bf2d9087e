"""Modules after the transformer in the reference model: sentence-transformers' modules, one text at a time.

Written from sentence-transformers' documentation of its modules and checked against it in the tests. As a witness it shares
no computation with the graphs that it checks; it shares the code that finds and parses the checkpoint's files. Tensors' own
methods are enough for most of it, so torch is imported where it is needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fletcher.model_zoo.card import ModelCard
from fletcher.model_zoo.sentence_transformers.files import Module as ModuleFiles
from fletcher.model_zoo.sentence_transformers.files import SentenceTransformersFiles
from fletcher.runtime.errors import CheckpointError

from ..checkpoint.sentence_transformers import find_config, read_pooling

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Module", "build_modules"]

#: One step from (tokens, hidden) to (dimension,), or from one vector to the next.
Module = Callable[["Tensor"], "Tensor"]


def build_modules(files: SentenceTransformersFiles, card: ModelCard) -> list[Module]:
    """Return the steps after the transformer: by `modules.json`, else by the card's pooling and normalization.

    Args:
        files: files of the checkpoint.
        card: pooling and normalization of a checkpoint without `modules.json`.

    Raises:
        CheckpointError: the reference does not support a module, or its files are unusable.
    """
    if files.modules is None:
        return [_pooling(card.pooling)] + ([_normalize] if card.normalize else [])
    modules: list[Module] = []
    for module in files.modules:
        if module.kind == "Transformer":
            continue
        if module.kind not in _BUILDERS or not module.type.startswith("sentence_transformers."):
            raise CheckpointError(
                f"{files.folder / 'modules.json'} has a module {module.type!r}; the reference supports "
                f"{', '.join(_BUILDERS)}"
            )
        modules.append(_BUILDERS[module.kind](module, card))
    return modules


# Pooling --------------------------------------------------------------------------------------------------------------


def _first(tokens: Tensor) -> Tensor:
    return tokens[0]


def _last(tokens: Tensor) -> Tensor:
    return tokens[-1]


def _max(tokens: Tensor) -> Tensor:
    return tokens.amax(dim=0)


def _mean(tokens: Tensor) -> Tensor:
    return tokens.sum(dim=0) / len(tokens)


def _mean_sqrt(tokens: Tensor) -> Tensor:
    return tokens.sum(dim=0) / math.sqrt(len(tokens))


def _weighted_mean(tokens: Tensor) -> Tensor:
    """Return the mean with weights 1, 2, 3 … by position (SGPT, arXiv 2202.08904)."""
    weights = tokens.new_ones(len(tokens), 1).cumsum(dim=0)
    return (tokens * weights).sum(dim=0) / weights.sum()


_POOLING: Mapping[str, Module] = {
    "cls": _first,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}


def _pooling(modes: Sequence[str]) -> Module:
    """Pool (tokens, hidden) to (modes · hidden,)."""
    unknown = sorted(set(modes) - set(_POOLING))
    if unknown or not modes:
        raise CheckpointError(f"pooling {', '.join(unknown) or 'without a mode'}: supported are {', '.join(_POOLING)}")

    def pool(tokens: Tensor) -> Tensor:
        import torch

        return torch.cat([_POOLING[mode](tokens) for mode in modes])

    return pool


def _load_pooling(module: ModuleFiles, card: ModelCard) -> Module:
    config = read_pooling(module)
    if not config.include_prompt and card.prompts:
        raise CheckpointError(
            f"{module.folder} leaves the prompt's tokens out of pooling (include_prompt is false), which Fletcher does "
            "not do"
        )
    return _pooling(config.modes)


# Dense, LayerNorm, Normalize ------------------------------------------------------------------------------------------


def _normalize(vector: Tensor) -> Tensor:
    """Scale a vector to L2 norm 1; a zero vector stays zero, as in `torch.nn.functional.normalize`."""
    return vector / vector.square().sum().sqrt().clamp(min=1e-12)


def _load_normalize(module: ModuleFiles, card: ModelCard) -> Module:
    _only_sentences(module)
    return _normalize


def _load_dense(module: ModuleFiles, card: ModelCard) -> Module:
    folder, config = module.folder, _only_sentences(module)
    activation = _activation(folder, config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    tensors = _load_tensors(folder, {"linear.weight"}, {"linear.bias", "residual.weight"})
    weight, bias = tensors["linear.weight"], tensors.get("linear.bias")
    if (bias is not None) != config.get("bias", True):
        raise CheckpointError(
            f"{folder}: config.json has bias {config.get('bias', True)}, which contradicts the weights"
        )
    residual = config.get("use_residual", False)

    def dense(vector: Tensor) -> Tensor:
        projected = weight @ vector
        if bias is not None:
            projected = projected + bias
        projected = activation(projected)
        if not residual:
            return projected
        return projected + (tensors["residual.weight"] @ vector if "residual.weight" in tensors else vector)

    return dense


def _load_layer_norm(module: ModuleFiles, card: ModelCard) -> Module:
    tensors = _load_tensors(module.folder, {"norm.weight", "norm.bias"}, set())

    def layer_norm(vector: Tensor) -> Tensor:
        centered = vector - vector.mean()
        # 1e-5 is torch.nn.LayerNorm's own default, which sentence-transformers leaves.
        return centered / (centered.square().mean() + 1e-5).sqrt() * tensors["norm.weight"] + tensors["norm.bias"]

    return layer_norm


_BUILDERS: Mapping[str, Callable[[ModuleFiles, ModelCard], Module]] = {
    "Pooling": _load_pooling,
    "Dense": _load_dense,
    "LayerNorm": _load_layer_norm,
    "Normalize": _load_normalize,
}


def _activation(folder: Path, name: str) -> Module:
    """Return an instance of a class of torch.nn by its full name; no other module is imported, to run no foreign code."""
    import torch

    kind = getattr(torch.nn, name.rsplit(".", 1)[-1], None)
    if not name.startswith("torch.nn.") or not (isinstance(kind, type) and issubclass(kind, torch.nn.Module)):
        raise CheckpointError(f"{folder} has the activation {name!r}: only classes of torch.nn are supported")
    module: Module = kind()
    return module


def _only_sentences(module: ModuleFiles) -> dict[str, Any]:
    """Return the module's config, and refuse a module that works on something else than the sentence's vector."""
    config = find_config(module)
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, "sentence_embedding"):
            raise CheckpointError(
                f"{module.folder / 'config.json'} has {key} {config[key]!r}: only 'sentence_embedding' is supported"
            )
    return config


def _load_tensors(folder: Path, required: set[str], optional: set[str]) -> dict[str, Tensor]:
    """Return the module's weights in float32.

    Raises:
        CheckpointError: there is no safetensors file, or it has other tensors.
    """
    from safetensors.torch import load_file

    file = folder / "model.safetensors"
    if not file.is_file():
        raise CheckpointError(f"{folder} has no model.safetensors; weights are read from safetensors files only")
    tensors = {name: tensor.float() for name, tensor in load_file(file).items()}
    if not required <= set(tensors) <= required | optional:
        raise CheckpointError(f"{file} holds {', '.join(sorted(tensors))}; required are {', '.join(sorted(required))}")
    return tensors
