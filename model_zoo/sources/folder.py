"""Files of a checkpoint folder: those that are used, and those that must exist. It reads no tensor and runs no code."""

from __future__ import annotations

import os
import shlex
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from ..decode import decode_json
from ..errors import CardError, SourceError
from ..sentence_transformers.files import read_module_list

__all__ = ["CHECKPOINT_PATTERNS", "IGNORED_PATTERNS", "checkpoint_files", "is_checkpoint_file", "require_safetensors"]

#: The files at a checkpoint's top level that are used, and those of its sentence-transformers modules.
_TOP_PATTERNS = (
    "config.json",
    "*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "*.model",
    "modules.json",
    "sentence_*_config.json",
    "config_sentence_transformers.json",
)
_MODULE_PATTERNS = ("*/config.json", "*/model.safetensors")

#: The same for huggingface_hub, whose `*` crosses folders.
CHECKPOINT_PATTERNS = (*_TOP_PATTERNS, *_MODULE_PATTERNS)
IGNORED_PATTERNS = ("*/*/*", "onnx/*", "openvino/*")

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
    if any(fnmatchcase(name, pattern) for pattern in IGNORED_PATTERNS):
        return False
    patterns = _MODULE_PATTERNS if "/" in name else _TOP_PATTERNS
    return any(fnmatchcase(name, pattern) for pattern in patterns)


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
    """Refuse a folder whose weights are missing, incomplete or a pickle.

    Args:
        folder: the checkpoint's folder.
        origin: SOURCE of the folder, for the message.

    Raises:
        SourceError: the weights are missing, incomplete or a pickle; the message has the command that converts a pickle.
    """
    if not (folder / "config.json").is_file():
        raise SourceError(f"{origin}: {folder} is not a checkpoint: it has no config.json")
    for place in (folder, *_dense_folders(folder, origin)):
        if (place / "model.safetensors.index.json").is_file():
            _require_shards(place, origin)
        elif not any(place.glob("*.safetensors")):
            raise _no_safetensors(place, origin)


def _no_safetensors(place: Path, origin: str) -> SourceError:
    pickle = next((place / name for name in _PICKLES if (place / name).is_file()), None)
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


def _dense_folders(folder: Path, origin: str) -> list[Path]:
    """Return the folders of the sentence-transformers modules that have weights of their own."""
    try:
        modules = read_module_list(folder) or ()
    except CardError as error:
        raise SourceError(f"{origin}: {error}") from error
    return [module.folder for module in modules if module.kind == "Dense"]


def _require_shards(place: Path, origin: str) -> None:
    file = place / "model.safetensors.index.json"
    try:
        index = decode_json(file.read_bytes(), _Index)
    except msgspec.DecodeError as error:
        raise SourceError(f"{origin}: {file} is damaged: {error}") from error
    missing = sorted(shard for shard in set(index.weight_map.values()) if not (place / shard).is_file())
    if missing:
        raise SourceError(f"{origin}: {place} is incomplete: it lacks {', '.join(missing)}, named in {file.name}")
