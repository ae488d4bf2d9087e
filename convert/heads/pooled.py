"""Modules after the encoder of an embedding model, as the checkpoint's `modules.json` lists them.

Source: sentence-transformers' modules, with their `config.json` and weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from fletcher.model_zoo.card import ModelCard
from fletcher.model_zoo.sentence_transformers.files import Module as ModuleFiles
from fletcher.model_zoo.sentence_transformers.modules import Step
from fletcher.runtime.errors import CheckpointError

from ..architecture import Dense, LayerAverage, Module, Normalize, Pooling, Truncate
from ..checkpoint import sentence_transformers
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.tensors import Norm, TensorReader
from ..checkpoint.weights.files import read_weights
from ..graph.torch_activations import TORCH_ACTIVATIONS

__all__ = ["read_dense", "read_modules"]

#: torch's classes as transformers' activation names; the others are those of `TORCH_ACTIVATIONS`.
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
    """Return the modules after the encoder: those of the checkpoint in their order, else the card's.

    Args:
        checkpoint: checkpoint, with or without `modules.json`.
        card: settings of the model.
        hidden_size: width of a token vector.

    Raises:
        CheckpointError: Fletcher does not author a module, or the modules contradict the card.
    """
    modules: list[Module] = []
    width = hidden_size
    for step in sentence_transformers.read_steps(checkpoint.folder, hidden_size):
        module = (
            _read_step(step, card) if step.module.kind != "WeightedLayerPooling" else _read_average(checkpoint, step)
        )
        if module is not None:
            modules.append(module)
        if isinstance(module, Dense):
            width = module.linear.weight.shape[1]
        elif isinstance(module, Pooling):
            _check_pooling(checkpoint, card, module)
            width *= len(module.modes)
    if not modules:
        modules, width = [Pooling(card.pooling)], width * len(card.pooling)
    normalized = isinstance(modules[-1], Normalize)
    length = _truncated(checkpoint, width)
    if normalized and not card.normalize and length == width:
        raise CheckpointError(f"{checkpoint.folder}: modules.json normalizes, the card {card.name} says it does not")
    if card.normalize and not normalized:
        modules.append(Normalize())
    if length < width:
        modules.append(Truncate(length))
    if length != card.dimension:
        raise CheckpointError(
            f"{checkpoint.folder} gives vectors of {length} dimensions, the card {card.name} says {card.dimension}"
        )
    return tuple(modules)


def _read_step(step: Step, card: ModelCard) -> Module | None:
    """Return the module; None is Dropout, the identity when a model does not train."""
    match step.module.kind:
        case "Pooling":
            return Pooling(sentence_transformers.read_pooling(step.module).modes, card.include_prompt is False)
        case "Dense":
            return read_dense(step.module, step.width, place=step.place)
        case "LayerNorm":
            return _read_norm(step.module, step.width)
        case "Normalize":
            return Normalize()
        case _:
            return None


def _read_average(checkpoint: Checkpoint, step: Step) -> LayerAverage | None:
    """Read a WeightedLayerPooling; without `output_hidden_states` in config.json, sentence-transformers leaves it out.

    Raises:
        CheckpointError: its sizes are not those of the encoder.
    """
    config, file = sentence_transformers.read_config(step.module), step.module.folder / "config.json"
    layers, start = config.get("num_hidden_layers", 12), config.get("layer_start", 4)
    if (
        any(isinstance(number, bool) or not isinstance(number, int) for number in (layers, start))
        or not 0 <= start <= layers
    ):
        raise CheckpointError(
            f"{file}: layer_start {start!r} and num_hidden_layers {layers!r} are not a range of layers"
        )
    tensors = _reader(step.module)
    values = tensors.take("layer_weights", (layers + 1 - start,)).load()
    tensors.finish()
    if checkpoint.config.get("output_hidden_states") is not True:
        return None
    keys = ("num_hidden_layers", "n_layers", "num_layers", "n_layer")
    found = next((checkpoint.config[key] for key in keys if key in checkpoint.config), None)
    if layers != found:
        raise CheckpointError(f"{file}: num_hidden_layers is {layers}, and the encoder has {found} layers")
    return LayerAverage((*([0.0] * start), *(values / values.sum()).tolist()))


def _check_pooling(checkpoint: Checkpoint, card: ModelCard, pooling: Pooling) -> None:
    if pooling.modes != card.pooling:
        raise CheckpointError(
            f"{checkpoint.folder} pools by {', '.join(pooling.modes)}, the card {card.name} says {', '.join(card.pooling)}"
        )


def _truncated(checkpoint: Checkpoint, width: int) -> int:
    """Return the length that `truncate_dim` of config_sentence_transformers.json leaves."""
    length = sentence_transformers.read_files(checkpoint.folder).settings.truncate_dim
    return width if length is None else min(width, length)


def _reader(module: ModuleFiles) -> TensorReader:
    tensors = read_weights(module.folder)
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
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, place):
            raise CheckpointError(f"{folder / 'config.json'}: {key} is {config[key]!r}; only {place} is authored here")
    if config.get("in_features") != width:
        raise CheckpointError(f"{folder / 'config.json'}: in_features is {config.get('in_features')}, {width} arrive")
    num_out = config.get("out_features")
    if isinstance(num_out, bool) or not isinstance(num_out, int) or num_out < 1:
        raise CheckpointError(f"{folder / 'config.json'}: out_features is {num_out!r}, a positive integer was expected")
    activation = _read_activation(folder, config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    is_residual = config.get("use_residual", False)
    if not isinstance(is_residual, bool):
        raise CheckpointError(
            f"{folder / 'config.json'}: use_residual is {is_residual!r}, where true or false was expected"
        )
    tensors = _reader(module)
    linear = tensors.linear("linear", width, num_out, bias=bool(config.get("bias", True)))
    projection = None
    if is_residual and width != num_out:
        projection = tensors.linear("residual", width, num_out, bias=False).renamed(module.path)
    tensors.finish()
    return Dense(linear.renamed(module.path), activation, is_residual, projection)


def _read_activation(folder: Path, name: object) -> str:
    """Return the name of an activation whose class is torch's own, by its full name in the module's config.

    sentence-transformers creates classes of torch alone without trust_remote_code, and takes Tanh for others.
    """
    package, _, kind = str(name).rpartition(".")
    home = "torch.nn.modules.linear" if kind == "Identity" else "torch.nn.modules.activation"
    if package in ("torch.nn", "torch.nn.modules", home):
        if kind in ACTIVATIONS:
            return ACTIVATIONS[kind]
        if kind in TORCH_ACTIVATIONS:
            return kind
    raise CheckpointError(
        f"{folder / 'config.json'}: activation_function is {name!r}; Fletcher authors torch.nn's "
        f"{', '.join(sorted({*ACTIVATIONS, *TORCH_ACTIVATIONS}))}"
    )


def _read_norm(module: ModuleFiles, width: int) -> Norm:
    size = sentence_transformers.read_config(module).get("dimension")
    if size != width:
        raise CheckpointError(f"{module.folder / 'config.json'}: dimension is {size}, {width} arrive")
    tensors = _reader(module)
    norm = tensors.norm("norm", width, epsilon=1e-5)  # torch.nn.LayerNorm's default, which the module leaves as it is
    tensors.finish()
    return norm.renamed(module.path)
