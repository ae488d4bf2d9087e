"""Modules after the encoder of an embedding model, as the checkpoint's `modules.json` lists them.

Source: sentence-transformers' modules, with their `config.json` and `model.safetensors`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from fletcher.model_zoo.card import ModelCard
from fletcher.model_zoo.sentence_transformers.files import Module as ModuleFiles
from fletcher.runtime.errors import CheckpointError

from ..architecture import Dense, Module, Normalize, Pooling
from ..checkpoint import sentence_transformers
from ..checkpoint.checkpoint import Checkpoint, read_header
from ..checkpoint.tensors import Norm, TensorReader

__all__ = ["read_dense", "read_modules"]

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


def read_modules(checkpoint: Checkpoint, card: ModelCard, hidden_size: int) -> tuple[Module, ...]:
    """Return the card's pooling, the checkpoint's Dense and LayerNorm modules, and L2 normalization if the card has it.

    Args:
        checkpoint: checkpoint, with or without `modules.json`.
        card: settings of the model.
        hidden_size: width of a token vector.

    Raises:
        CheckpointError: Fletcher does not author a module, or the modules contradict the card.
    """
    modules: list[Module] = [Pooling(card.pooling)]
    width = hidden_size * len(card.pooling)
    normalized = False
    for entry in sentence_transformers.read_modules(checkpoint.folder):
        kind = entry.kind
        if kind in ("Transformer", "Pooling"):
            continue  # the encoder itself, and the pooling, which the card already has
        if normalized:
            raise CheckpointError(
                f"{checkpoint.folder}: modules.json has {kind} after Normalize, which is not authored"
            )
        if kind == "Normalize":
            normalized = True
        elif kind == "Dense":
            dense = read_dense(entry, width)
            modules.append(dense)
            width = dense.linear.weight.shape[1]
        elif kind == "LayerNorm":
            modules.append(_read_norm(entry, width))
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


def _reader(module: ModuleFiles) -> TensorReader:
    tensors = {tensor.name: tensor for tensor in read_header(module.folder / "model.safetensors")}
    return TensorReader(Checkpoint(module.folder, {"model_type": module.folder.name}, tensors), prefixes=())


def read_dense(module: ModuleFiles, width: int, *, place: str = "sentence_embedding") -> Dense:
    """Read a Dense module; its weights get the module's path as the prefix of their names.

    Args:
        module: its entry in `modules.json`.
        width: elements of the vectors that it gets.
        place: vectors that it works on: `sentence_embedding` (each text's), or `token_embeddings`.

    Raises:
        CheckpointError: the sizes do not fit, or the module asks for something that Fletcher does not author.
    """
    folder, config = module.folder, sentence_transformers.read_config(module)
    keys = {"in_features", "out_features", "bias", "activation_function", "module_input_name", "module_output_name"}
    if config.get("use_residual") is False:
        keys |= {"use_residual"}
    if unknown := sorted(set(config) - keys):
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
    tensors = _reader(module)
    linear = tensors.linear("linear", width, num_out, bias=bool(config.get("bias", True)))
    tensors.finish()
    return Dense(linear.renamed(module.path), ACTIVATIONS[activation])


def _read_norm(module: ModuleFiles, width: int) -> Norm:
    size = sentence_transformers.read_config(module).get("dimension")
    if size != width:
        raise CheckpointError(f"{module.folder / 'config.json'}: dimension is {size}, {width} arrive")
    tensors = _reader(module)
    norm = tensors.norm("norm", width, epsilon=1e-5)  # torch.nn.LayerNorm's default, which the module leaves as it is
    tensors.finish()
    return norm.renamed(module.path)
