"""Files of a checkpoint folder: those that are used, and those that must exist. It reads no tensor and runs no code."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from ..decode import decode_json
from ..errors import CardError, SourceError
from ..sentence_transformers.files import ROUTERS, Module, read_json, read_module_list
from ..sentence_transformers.token_heads import TOKEN_HEAD_FILES
from ..sentence_transformers.unsupported import explain_module
from .harmless_files import HARMLESS_FILES, is_harmless
from .lfs import is_pointer, pointer_message

__all__ = [
    "CHECKPOINT_PATTERNS",
    "IGNORED_PATTERNS",
    "checkpoint_files",
    "is_checkpoint_file",
    "is_deep",
    "needed_pickles",
    "require_weights",
    "token_heads",
]

#: Files of sentence-transformers' modules. `0_Transformer` and its like hold the encoder in versions before 2.
_MODULE_PATTERNS = (
    *("*/config.json", "*/model.safetensors", "0_*/*.safetensors", "0_*/*.json", "0_*/*.txt", "0_*/*.model"),
    # A Router has each module in a folder of its own, in the checkpoint's or in one of the Router.
    *(
        f"{place}/*.{suffix}"
        for place in ("*_[0-9]_*", *(f"*_{kind}/*" for kind in ROUTERS))
        for suffix in ("safetensors", "json", "txt", "model")
    ),
    *(f"*_{kind}/router_config.json" for kind in ROUTERS),
)

#: For huggingface_hub, whose `*` crosses folders: every file but the harmless ones, so that no file that may decide a vector
#: is missing from the folder that is checked.
CHECKPOINT_PATTERNS = ("*",)
IGNORED_PATTERNS = (
    *("*/*/*", "onnx/*", "openvino/*", ".*"),
    *(pattern for patterns in HARMLESS_FILES.values() for pattern in patterns),
)

#: Pickles of torch, which are used where a folder has no safetensors; the reader runs no code of them.
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin", "adapter_model.bin")

#: Commands that make a checkpoint of weights in another format.
_FROM_GGUF = (
    "python -c \"import transformers as t; f = dict(gguf_file='{name}'); t.AutoModel.from_pretrained('{folder}', **f)"
    ".save_pretrained('OUT'); t.AutoTokenizer.from_pretrained('{folder}', **f).save_pretrained('OUT')\""
)
_FROM_MLX = "python -m mlx_lm.convert --hf-path '{folder}' --mlx-path OUT --dequantize"


def is_checkpoint_file(name: str) -> bool:
    """Return whether a file is used, by its path relative to the checkpoint (with `/`); pickles depend on other files."""
    if is_deep(name) or any(fnmatchcase(name, pattern) for pattern in ("onnx/*", "openvino/*")):
        return False
    if is_harmless(name.rpartition("/")[2]):
        return False
    return "/" not in name or any(fnmatchcase(name, pattern) for pattern in _MODULE_PATTERNS)


def is_deep(name: str) -> bool:
    """Return whether a file lies below the folders of modules, by its path relative to the checkpoint (with `/`)."""
    first, *others = PurePosixPath(name).parts
    return len(others) > (2 if first.endswith(tuple(f"_{kind}" for kind in ROUTERS)) else 1)


def checkpoint_files(folder: Path) -> tuple[str, ...]:
    """Return the paths, relative and with `/`, of a folder's files that are used."""
    names = []
    for parent, folders, files in os.walk(folder):
        relative = Path(parent).relative_to(folder)
        if is_deep((relative / "folder" / "file").as_posix()):
            folders.clear()
        names += [(relative / file).as_posix() for file in files]
    return tuple(sorted({*filter(is_checkpoint_file, names), *needed_pickles(names), *token_heads(names)}))


def token_heads(names: Iterable[str]) -> frozenset[str]:
    """Return the files of BGE-M3's further outputs among those of a checkpoint: both, or none."""
    files = frozenset(TOKEN_HEAD_FILES)
    return files if files <= set(names) else frozenset()


def needed_pickles(names: Iterable[str]) -> frozenset[str]:
    """Return the pickles, of files named relative to a checkpoint, that hold weights which no safetensors file has."""
    paths = [PurePosixPath(name) for name in names]
    safe = {path.parent for path in paths if path.suffix == ".safetensors"}
    return frozenset(
        str(path)
        for path in paths
        if not is_deep(str(path))
        and path.parent not in safe
        and path.parts[0] not in ("onnx", "openvino")
        and any(fnmatchcase(path.name, pattern) for pattern in _PICKLES)
    )


def require_weights(folder: Path, origin: str) -> None:
    """Refuse a folder that holds no checkpoint, or whose weights are missing, incomplete or in another format.

    Args:
        folder: the checkpoint's folder.
        origin: SOURCE of the folder, for the message.

    Raises:
        SourceError: the folder holds something else, or its weights are missing, incomplete or in another format; the message
            has the next step.
    """
    for name in ("config.json", "modules.json", "model.safetensors.index.json"):
        if is_pointer(folder / name):
            raise SourceError(f"{origin}: {pointer_message(folder / name)}")
    modules = _modules(folder, origin)
    encoder = modules[0].folder if modules and modules[0].kind == "Transformer" else folder
    if modules and modules[0].kind in ROUTERS:
        return  # `convert/checkpoint/routes/` reads its branches, and refuses what is missing
    if modules and modules[0].kind == "StaticEmbedding":
        _require_table(modules[0].folder, origin)
        return
    if (encoder / "adapter_config.json").is_file():
        _require_adapter(encoder, origin)
        return
    if not (encoder / "config.json").is_file():
        raise SourceError(f"{origin}: {_describe_other(folder, modules)}")
    _refuse_quantized(encoder, origin)
    for place in (encoder, *(module.folder for module in modules if module.kind == "Dense")):
        if (place / "model.safetensors.index.json").is_file():
            _require_shards(place, origin)
        elif not any(place.glob("*.safetensors")) and not needed_pickles(file.name for file in place.glob("*")):
            raise SourceError(f"{origin}: {_explain_missing(place)}")


def _require_table(folder: Path, origin: str) -> None:
    """Refuse static embeddings without their table or their tokenizer."""
    if not (folder / "tokenizer.json").is_file():
        raise SourceError(f"{origin}: {folder} has no tokenizer.json, which static embeddings need: fetch it again")
    if not any(folder.glob("*.safetensors")) and not needed_pickles(file.name for file in folder.glob("*")):
        raise SourceError(f"{origin}: {_explain_missing(folder)}")


def _require_adapter(folder: Path, origin: str) -> None:
    """Refuse a folder with the settings of an adapter and without its weights."""
    if not any((folder / name).is_file() for name in ("adapter_model.safetensors", "adapter_model.bin")):
        raise SourceError(
            f"{origin}: {folder} has adapter_config.json and neither adapter_model.safetensors nor adapter_model.bin: fetch "
            "it again"
        )


class _Stored(msgspec.Struct):
    """Keys of config.json that say how the weights are stored."""

    quantization: dict[str, Any] | None = None
    quantization_config: dict[str, Any] | None = None


def _refuse_quantized(folder: Path, origin: str) -> None:
    """Refuse weights that a library stores as codes, which are other numbers than the model's.

    Raises:
        SourceError: the configuration says so.
    """
    try:
        stored = read_json(folder / "config.json", _Stored)
    except CardError as error:
        raise SourceError(f"{origin}: {error}") from error
    if stored is None:
        return
    if stored.quantization is not None and stored.quantization_config in (None, stored.quantization):
        raise SourceError(
            f"{origin}: the weights are quantized by MLX (`quantization` of config.json), and Fletcher converts the model's "
            f"own. Fetch the model that they were made from, or make float weights of them on a Mac: "
            f"{_FROM_MLX.format(folder=folder)}"
        )
    if stored.quantization_config is not None:
        method = stored.quantization_config.get("quant_method", "an unnamed method")
        raise SourceError(
            f"{origin}: the weights are quantized by {method} (`quantization_config` of config.json), and Fletcher converts "
            "the model's own. Fetch the model that they were made from, or save its dequantized weights with transformers "
            "(`model.dequantize()`, then `save_pretrained`)"
        )


def _explain_missing(place: Path) -> str:
    """Return why a folder has no weights that Fletcher reads, and the next step."""
    if (foreign := _explain_foreign(place)) is not None:
        return foreign
    graphs = [*place.glob("*.onnx"), *place.glob("onnx/*.onnx"), *place.glob("openvino/*.xml")]
    if graphs:
        return (
            f"{place} has no weights but graphs alone ({graphs[0].relative_to(place)}). Fletcher writes its own graph from "
            "the weights: fetch the *.safetensors files of the model that the graphs were made from"
        )
    others = sorted(file.name for pattern in ("tf_model.h5*", "flax_model*", "*.ckpt*") for file in place.glob(pattern))
    if others:
        return (
            f"{place} has no weights of torch but {others[0]}. Save them as safetensors with transformers 4: python -c "
            f"\"import transformers as t; t.AutoModel.from_pretrained('{place}', "
            f"{'from_flax' if others[0].startswith('flax') else 'from_tf'}=True).save_pretrained('OUT')\""
        )
    return f"{place} has no weights: neither model.safetensors nor shards of it nor pytorch_model.bin. Fetch it again"


def _explain_foreign(folder: Path) -> str | None:
    """Return why weights of llama.cpp or MLX are refused, with the command that converts them; None if there are none."""
    if file := next(iter(sorted(folder.glob("*.gguf"))), None):
        command = _FROM_GGUF.format(name=file.name, folder=folder)
        return (
            f"the weights are a GGUF file of llama.cpp ({file.name}), mostly quantized, and Fletcher converts the model's "
            f"own. Fetch the model that it was made from, or make a checkpoint of it where transformers can: {command}"
        )
    if file := next((folder / name for name in ("weights.npz", "weights.00.npz") if (folder / name).is_file()), None):
        return (
            f"the weights are those of MLX ({file.name}). Fetch the model that they were made from, or convert them on a "
            f"Mac: {_FROM_MLX.format(folder=folder)}"
        )
    return None


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def _modules(folder: Path, origin: str) -> tuple[Module, ...]:
    try:
        return read_module_list(folder) or ()
    except CardError as error:
        raise SourceError(f"{origin}: {error}") from error


def _describe_other(folder: Path, modules: Sequence[Module]) -> str:
    """Return what a folder without an encoder's config.json is, and the next step."""
    if (foreign := _explain_foreign(folder)) is not None:
        return foreign
    if modules and modules[0].kind != "Transformer":
        kind = modules[0].kind
        reason = explain_module(kind) or "is not a Transformer, with which the models that Fletcher converts begin"
        return f"{folder} is a model of sentence-transformers whose first module, {kind}, {reason}"
    place = modules[0].folder if modules else folder
    return f"{folder} is not a checkpoint: {place} has no config.json"


def _require_shards(place: Path, origin: str) -> None:
    file = place / "model.safetensors.index.json"
    try:
        index = decode_json(file.read_bytes(), _Index)
    except msgspec.DecodeError as error:
        raise SourceError(f"{origin}: {file} is damaged: {error}") from error
    missing = sorted(shard for shard in set(index.weight_map.values()) if not (place / shard).is_file())
    if missing:
        raise SourceError(f"{origin}: {place} is incomplete: it lacks {', '.join(missing)}, named in {file.name}")
