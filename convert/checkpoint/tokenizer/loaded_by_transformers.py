"""Tokenizers of classes that Fletcher does not reproduce, loaded by transformers itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fletcher.runtime.errors import CheckpointError, MissingPackageError

from ..tokenizer_version import TokenizerLike

__all__ = ["load_with_transformers"]


def load_with_transformers(folder: Path, like: TokenizerLike, name: str | None) -> Any:
    """Return transformers' own tokenizer of a checkpoint; never run code that comes with it.

    Args:
        folder: the checkpoint.
        like: version of transformers to follow.
        name: class that the checkpoint names, for messages.

    Raises:
        MissingPackageError: transformers is not installed.
        CheckpointError: another version is installed, or it cannot load the tokenizer, or loads one in Python.
    """
    subject = f"the tokenizer class {name}" if name else "the tokenizer of a checkpoint that names no tokenizer_class"
    try:
        import transformers
    except ImportError:
        raise MissingPackageError("transformers", "verify", subject) from None
    version = str(transformers.__version__)
    if version.partition(".")[0] != like:
        raise CheckpointError(
            f"{folder}: {subject} is loaded by transformers itself. The checkpoint's is version {like}, installed is "
            f"{version}: install transformers {like}, or follow the installed version with --tokenizer-like "
            f"{version.partition('.')[0]}"
        )
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever the class's code raises
        raise CheckpointError(f"transformers {version} cannot load {subject} from {folder}: {error}") from error
    if not tokenizer.is_fast:
        raise CheckpointError(
            f"{folder}: {subject} runs in Python, and the runtime needs a tokenizer.json: save the checkpoint with a fast "
            "tokenizer"
        )
    return tokenizer
