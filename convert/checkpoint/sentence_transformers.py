"""sentence-transformers' files beside a checkpoint, with `CheckpointError` for those that cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fletcher.model_zoo.errors import CardError
from fletcher.model_zoo.sentence_transformers.files import Module, SentenceTransformersFiles, read_module_config
from fletcher.model_zoo.sentence_transformers.files import read_files as read_zoo_files
from fletcher.model_zoo.sentence_transformers.files import read_module_list as read_zoo_modules
from fletcher.model_zoo.sentence_transformers.modules import PoolingConfig, Step, require_module_config
from fletcher.model_zoo.sentence_transformers.modules import read_pooling as read_zoo_pooling
from fletcher.model_zoo.sentence_transformers.modules import read_steps as read_zoo_steps
from fletcher.runtime.errors import CheckpointError

__all__ = ["find_config", "read_config", "read_files", "read_modules", "read_pooling", "read_steps"]


def read_files(folder: Path) -> SentenceTransformersFiles:
    """Read the files of a checkpoint folder.

    Raises:
        CheckpointError: a file cannot be read, or has a key of a wrong type.
    """
    try:
        return read_zoo_files(folder)
    except CardError as error:
        raise CheckpointError(str(error)) from error


def read_modules(folder: Path) -> tuple[Module, ...]:
    """Read `modules.json`; return no module if there is no such file.

    Raises:
        CheckpointError: the file cannot be read, or is not a list of modules.
    """
    try:
        return read_zoo_modules(folder) or ()
    except CardError as error:
        raise CheckpointError(str(error)) from error


def read_steps(folder: Path, hidden: int) -> tuple[Step, ...]:
    """Return the modules after the encoder of an embedding model; return none without `modules.json`.

    Raises:
        CheckpointError: a file is missing or malformed, sizes do not fit, or Fletcher does not reproduce a module or its
            place.
    """
    try:
        files = read_zoo_files(folder)
        return () if files.modules is None else read_zoo_steps(files, hidden)
    except CardError as error:
        raise CheckpointError(str(error)) from error


def read_config(module: Module) -> dict[str, Any]:
    """Read a module's own `config.json`.

    Raises:
        CheckpointError: the file does not exist, or does not hold a JSON object.
    """
    try:
        return require_module_config(module)
    except CardError as error:
        raise CheckpointError(str(error)) from error


def find_config(module: Module) -> dict[str, Any]:
    """Read a module's own `config.json`; return no keys if there is no such file.

    Raises:
        CheckpointError: the file does not hold a JSON object.
    """
    try:
        return read_module_config(module) or {}
    except CardError as error:
        raise CheckpointError(str(error)) from error


def read_pooling(module: Module) -> PoolingConfig:
    """Read the configuration of a Pooling module.

    Raises:
        CheckpointError: the file is missing or malformed, or has an unknown key or mode.
    """
    try:
        return read_zoo_pooling(module)
    except CardError as error:
        raise CheckpointError(str(error)) from error
