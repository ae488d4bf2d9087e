"""sentence-transformers' modules after the encoder, as the checkpoint's `modules.json` lists them.

Source: sentence-transformers' `modules.json` and each module's own `config.json` and `model.safetensors`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import msgspec

from fletcher.model_zoo.card import ModelCard
from fletcher.runtime.errors import CheckpointError

from ..architecture import Dense, Module, Normalize, Pooling
from ..checkpoint.checkpoint import Checkpoint, read_header, read_json
from ..checkpoint.tensors import Norm, TensorReader

__all__ = ["list_modules", "read_dense", "read_modules"]

#: torch's classes, by the last part of their dotted names, as transformers' activation names.
ACTIVATIONS: Mapping[str, str] = MappingProxyType(
    {
        "GELU": "gelu",
        "Identity": "identity",
        "ReLU": "relu",
        "SiLU": "silu",
        "Sigmoid": "sigmoid",
        "Tanh": "tanh",
    }
)


class _Entry(msgspec.Struct):
    """A line of `modules.json`."""

    path: str
    type: str


def read_modules(checkpoint: Checkpoint, card: ModelCard, hidden_size: int) -> tuple[Module, ...]:
    """What follows the encoder: the card's pooling, the checkpoint's Dense and LayerNorm modules, L2 if the card says so.

    Args:
        checkpoint: where `modules.json` lies, if it has one.
        card: the model's settings.
        hidden_size: width of a token vector.

    Raises:
        CheckpointError: a module that Fletcher does not author, or modules that contradict the card.
    """
    modules: list[Module] = [Pooling(card.pooling)]
    width = hidden_size * len(card.pooling)
    normalized = False
    for entry in _entries(checkpoint.folder):
        kind = entry.type.rsplit(".", 1)[-1]
        folder = checkpoint.folder / entry.path
        if kind in ("Transformer", "Pooling"):
            continue  # the encoder itself; the card's pooling was read from the other, or checked against it
        if normalized:
            raise CheckpointError(
                f"{checkpoint.folder}: modules.json has {kind} after Normalize, which is not authored"
            )
        if kind == "Normalize":
            normalized = True
        elif kind == "Dense":
            dense = read_dense(folder, entry.path, width)
            modules.append(dense)
            width = dense.linear.weight.shape[1]
        elif kind == "LayerNorm":
            modules.append(_read_norm(folder, entry.path, width))
        elif kind != "Dropout":  # the identity when a model does not train
            raise CheckpointError(
                f"{checkpoint.folder}: modules.json has the module {entry.type}; Fletcher authors Transformer, Pooling, "
                "Dense, LayerNorm, Dropout and Normalize"
            )
    if normalized and not card.normalize:
        raise CheckpointError(f"{checkpoint.folder}: modules.json normalizes, the card {card.name} says it does not")
    if card.normalize:
        modules.append(Normalize())
    if width != card.dimension:
        raise CheckpointError(
            f"{checkpoint.folder} gives vectors of {width} dimensions, the card {card.name} says {card.dimension}"
        )
    return tuple(modules)


def list_modules(folder: Path) -> list[tuple[str, Path]]:
    """Class name and folder of each module of `modules.json`; none if there is no file.

    Raises:
        CheckpointError: the file is malformed.
    """
    return [(entry.type.rsplit(".", 1)[-1], folder / entry.path) for entry in _entries(folder)]


def _entries(folder: Path) -> list[_Entry]:
    file = folder / "modules.json"
    if not file.is_file():
        return []
    try:
        return msgspec.json.decode(file.read_bytes(), type=list[_Entry])
    except msgspec.MsgspecError as error:
        raise CheckpointError(f"{file} is no list of sentence-transformers' modules: {error}") from error


def _reader(folder: Path) -> TensorReader:
    tensors = {tensor.name: tensor for tensor in read_header(folder / "model.safetensors")}
    return TensorReader(Checkpoint(folder, {"model_type": folder.name}, tensors), prefixes=())


def read_dense(folder: Path, path: str, width: int, *, place: str = "sentence_embedding") -> Dense:
    """A Dense module.

    Args:
        folder: of the module.
        path: prefix of its weights' names in the graph.
        width: elements that arrive.
        place: what it works on: each text's vector, or `token_embeddings`.

    Raises:
        CheckpointError: it does not fit, or asks for something that is not authored.
    """
    config = read_json(folder / "config.json")
    known = {"in_features", "out_features", "bias", "activation_function", "module_input_name", "module_output_name"}
    if config.get("use_residual") is False:
        known |= {"use_residual"}
    if unknown := sorted(set(config) - known):
        raise CheckpointError(f"{folder / 'config.json'} has keys that Fletcher does not know: {', '.join(unknown)}")
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, place):
            raise CheckpointError(f"{folder / 'config.json'}: {key} is {config[key]!r}; only {place} is authored here")
    if config.get("in_features") != width:
        raise CheckpointError(f"{folder / 'config.json'}: in_features is {config.get('in_features')}, {width} arrive")
    num_out = config.get("out_features")
    if isinstance(num_out, bool) or not isinstance(num_out, int) or num_out < 1:
        raise CheckpointError(f"{folder / 'config.json'}: out_features is {num_out!r}, a positive integer was expected")
    activation = str(config.get("activation_function", "Tanh")).rsplit(".", 1)[-1]
    if activation not in ACTIVATIONS:
        raise CheckpointError(
            f"{folder / 'config.json'}: activation_function is {config['activation_function']!r}; "
            f"Fletcher authors {', '.join(ACTIVATIONS)}"
        )
    tensors = _reader(folder)
    linear = tensors.linear("linear", width, num_out, bias=bool(config.get("bias", True)))
    tensors.finish()
    return Dense(linear.renamed(path), ACTIVATIONS[activation])


def _read_norm(folder: Path, path: str, width: int) -> Norm:
    config = read_json(folder / "config.json")
    if config.get("dimension") != width:
        raise CheckpointError(f"{folder / 'config.json'}: dimension is {config.get('dimension')}, {width} arrive")
    tensors = _reader(folder)
    norm = tensors.norm("norm", width, epsilon=1e-5)  # torch.nn.LayerNorm's default, which the module leaves as it is
    tensors.finish()
    return norm.renamed(path)
