"""Checkpoints that sentence-transformers before 2.0 saved: the encoder lies in a folder of its own, `0_Transformer`."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fletcher.model_zoo.errors import CardError
from fletcher.runtime.errors import CheckpointError

from .sentence_transformers import read_modules

__all__ = ["encoder_folder", "usual_layout"]


def encoder_folder(folder: Path) -> Path:
    """Return the folder of the encoder's files: the checkpoint itself, or the folder that an old `modules.json` names."""
    modules = read_modules(folder)
    if modules and modules[0].kind == "Transformer" and modules[0].path and modules[0].folder.is_dir():
        return modules[0].folder
    return folder


@contextlib.contextmanager
def usual_layout(folder: Path) -> Iterator[Path]:
    """Give a checkpoint with its encoder beside `modules.json`: the folder itself, or a temporary one with links to files.

    sentence-transformers reads the encoder, its tokenizer and its settings from the folder that `modules.json` names
    (base/modules/transformer.py, `subfolder`), and the rest from the checkpoint's own.
    """
    if encoder_folder(folder) == folder:
        yield folder
        return
    modules = read_modules(folder)
    with tempfile.TemporaryDirectory() as name:
        view = Path(name)
        for file in modules[0].folder.iterdir():
            (view / file.name).symlink_to(file.resolve())
        settings = "config_sentence_transformers.json"
        if (folder / settings).is_file():
            (view / settings).unlink(missing_ok=True)
            (view / settings).symlink_to((folder / settings).resolve())
        for module in modules[1:]:
            if module.folder.is_dir() and not (view / module.path).exists():
                (view / module.path).symlink_to(module.folder.resolve())
        entries = [dict(module.entry) for module in modules]
        entries[0]["path"] = ""
        (view / "modules.json").unlink(missing_ok=True)
        (view / "modules.json").write_text(json.dumps(entries), encoding="utf-8")
        try:
            yield view
        except (CardError, CheckpointError) as error:  # a message names the user's folder, not the temporary one
            raise type(error)(str(error).replace(str(view), str(modules[0].folder))) from error
