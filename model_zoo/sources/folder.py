"""Files of a checkpoint folder: those that are used, and those that must exist. It reads no tensor and runs no code."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from ..decode import decode_json
from ..errors import CardError, SourceError
from ..sentence_transformers.files import Module, read_json, read_module_list
from ..sentence_transformers.unsupported import explain_module
from .harmless_files import HARMLESS_FILES, is_harmless
from .lfs import is_pointer, pointer_message

__all__ = ["CHECKPOINT_PATTERNS", "IGNORED_PATTERNS", "checkpoint_files", "is_checkpoint_file", "require_safetensors"]

#: Files of sentence-transformers' modules. `0_Transformer` and its like hold the encoder in versions before 2.
_MODULE_PATTERNS = (
    *("*/config.json", "*/model.safetensors", "0_*/*.safetensors", "0_*/*.json", "0_*/*.txt", "0_*/*.model"),
)

#: For huggingface_hub, whose `*` crosses folders: every file but the harmless ones, so that no file that may decide a vector
#: is missing from the folder that is checked.
CHECKPOINT_PATTERNS = ("*",)
IGNORED_PATTERNS = (
    *("*/*/*", "onnx/*", "openvino/*", ".*"),
    *(pattern for patterns in HARMLESS_FILES.values() for pattern in patterns),
)

_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "model.bin")

# weights_only keeps the unpickler from calling anything but torch's own tensor builders; clone() because tensors that
# share storage cannot be saved.
_CONVERT = (
    "import sys, torch; from safetensors.torch import save_file; "
    "t = torch.load(sys.argv[1], map_location='cpu', weights_only=True); "
    "save_file({k: v.clone().contiguous() for k, v in t.items()}, sys.argv[2], metadata={'format': 'pt'})"
)


def is_checkpoint_file(name: str) -> bool:
    """Return whether a file is used, by its path relative to the checkpoint (with `/`)."""
    if any(fnmatchcase(name, pattern) for pattern in ("*/*/*", "onnx/*", "openvino/*")):
        return False
    if is_harmless(name.rpartition("/")[2]):
        return False
    return "/" not in name or any(fnmatchcase(name, pattern) for pattern in _MODULE_PATTERNS)


def checkpoint_files(folder: Path) -> tuple[str, ...]:
    """Return the paths, relative and with `/`, of a folder's files that are used."""
    names = []
    for parent, folders, files in os.walk(folder):
        relative = Path(parent).relative_to(folder)
        if relative.parts:
            folders.clear()  # modules lie one level down
        names += [(relative / file).as_posix() for file in files]
    return tuple(sorted(filter(is_checkpoint_file, names)))


def require_safetensors(folder: Path, origin: str) -> None:
    """Refuse a folder that holds no checkpoint, or whose weights are missing, incomplete or a pickle.

    Args:
        folder: the checkpoint's folder.
        origin: SOURCE of the folder, for the message.

    Raises:
        SourceError: the folder holds something else, or its weights are missing, incomplete or a pickle; the message has
            the next step, for a pickle the command that converts it.
    """
    for name in ("config.json", "modules.json", "model.safetensors.index.json"):
        if is_pointer(folder / name):
            raise SourceError(f"{origin}: {pointer_message(folder / name)}")
    modules = _modules(folder, origin)
    encoder = modules[0].folder if modules and modules[0].kind == "Transformer" else folder
    if not (encoder / "config.json").is_file():
        raise SourceError(f"{origin}: {_describe_other(folder, modules)}")
    for place in (encoder, *(module.folder for module in modules if module.kind == "Dense")):
        if (place / "model.safetensors.index.json").is_file():
            _require_shards(place, origin)
        elif not any(place.glob("*.safetensors")):
            raise _no_safetensors(place, origin)


def _no_safetensors(place: Path, origin: str) -> SourceError:
    pickle = next((place / name for name in _PICKLES if (place / name).is_file()), None)
    graphs = [*place.glob("*.onnx"), *place.glob("onnx/*.onnx"), *place.glob("openvino/*.xml")]
    if pickle is None and graphs:
        return SourceError(
            f"{origin}: {place} has no weights but graphs alone ({graphs[0].relative_to(place)}). Fletcher writes its own "
            "graph from the weights: fetch the *.safetensors files of the model that the graphs were made from"
        )
    if pickle is None:
        return SourceError(
            f"{origin}: {place} has no *.safetensors file. If the weights were published as a pickle "
            "(pytorch_model.bin), download that file and convert it in a sandbox for untrusted programs: "
            f"{_convert_command(place / 'pytorch_model.bin')}, then pass that folder"
        )
    return SourceError(
        f"{origin}: the weights are a pickle ({pickle}), which can run code when it is read, so it is refused. "
        "Convert it in a sandbox for untrusted programs (it needs torch and safetensors), then pass that folder: "
        f"{_convert_command(pickle)}"
    )


def _convert_command(pickle: Path) -> str:
    target = pickle.with_name("model.safetensors")
    return f'python -c "{_CONVERT}" {shlex.quote(str(pickle))} {shlex.quote(str(target))}'


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def _modules(folder: Path, origin: str) -> tuple[Module, ...]:
    try:
        return read_module_list(folder) or ()
    except CardError as error:
        raise SourceError(f"{origin}: {error}") from error


class _Adapter(msgspec.Struct):
    base_model_name_or_path: str | None = None


def _describe_other(folder: Path, modules: Sequence[Module]) -> str:
    """Return what a folder without an encoder's config.json is, and the next step."""
    try:
        adapter = read_json(folder / "adapter_config.json", _Adapter)
    except CardError:
        adapter = _Adapter()
    if adapter is not None:
        base = adapter.base_model_name_or_path or "another model"
        return (
            f"{folder} is not a checkpoint but an adapter of {base}: it has adapter_config.json and no config.json. Merge it "
            'into the model and convert the result: python -c "from peft import AutoPeftModelForFeatureExtraction as M; '
            "M.from_pretrained('FOLDER').merge_and_unload().save_pretrained('MERGED')\", then copy the tokenizer and the "
            "modules to MERGED"
        )
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
