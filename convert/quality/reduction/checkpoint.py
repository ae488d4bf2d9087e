"""`write_reduced`: a copy of a checkpoint with a projection as its last modules, in sentence-transformers' own format.

sentence-transformers loads it without Fletcher, and is the reference that the converted artifact is compared with.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from fletcher.model_zoo import Checkout, ModelCard
from fletcher.model_zoo.sentence_transformers.files import read_files
from fletcher.model_zoo.sources.folder import checkpoint_files
from fletcher.runtime.errors import CheckpointError

from ...checkpoint.old_layout import usual_layout
from ..measures.projection import Projection

__all__ = ["check_reducible", "write_reduced"]

TYPE = "sentence_transformers.models"


def check_reducible(folder: Path) -> None:
    """Raise an error if a checkpoint shortens its vectors after its last module.

    Raises:
        CheckpointError: it has `truncate_dim`.
    """
    length = read_files(folder).settings.truncate_dim
    if length is not None:
        raise CheckpointError(
            f"{folder / 'config_sentence_transformers.json'}: truncate_dim is {length}, so the vectors are cut after the "
            "last module, and no projection can follow. Remove the key in a copy, and convert that"
        )


def write_reduced(checkout: Checkout, card: ModelCard, projection: Projection, output: Path) -> None:
    """Write the copy: the checkpoint's files, Normalize if the last module is another one, Dense, and Normalize.

    The zoo's prompts and longest input become settings of the copy, because it has no card in the zoo.

    Args:
        checkout: the checkpoint.
        card: the card of its artifact.
        projection: product and bias of the module Dense.
        output: an empty or missing folder.

    Raises:
        CheckpointError: the checkpoint shortens its vectors after its last module.
    """
    with usual_layout(checkout.folder) as folder:
        check_reducible(folder)
        modules = read_files(folder).modules or ()
        names = set(checkpoint_files(folder))
        for module in modules:  # an old layout has links to their folders, which `checkpoint_files` does not follow
            if module.path and module.folder.is_dir():
                names |= {f"{module.path}/{name}" for name in checkpoint_files(module.folder)}
        for name in sorted(names):
            (output / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, output / name)
        entries = [dict(module.entry) for module in modules] or _pooled(output, card)
    kinds = [str(entry["type"]).rpartition(".")[2] for entry in entries]
    if kinds[-1] != "Normalize":
        _add(entries, "Normalize")
    dense = output / _add(entries, "Dense")
    dense.mkdir()
    length, dimension = projection.weight.shape
    _write(
        dense / "config.json",
        {
            "in_features": dimension,
            "out_features": length,
            "bias": True,
            "activation_function": "torch.nn.modules.linear.Identity",
        },
    )
    save_file({"linear.weight": projection.weight, "linear.bias": projection.bias}, dense / "model.safetensors")
    _add(entries, "Normalize")
    _write(output / "modules.json", entries)
    _change(output / "sentence_bert_config.json", {"max_seq_length": card.max_tokens})
    settings: dict[str, Any] = {"matryoshka_dimensions": None, "similarity_fn_name": "cosine"}
    if checkout.card is not None and card.prompts:
        settings["prompts"] = dict(card.prompts)
    _change(output / "config_sentence_transformers.json", settings)


def _pooled(output: Path, card: ModelCard) -> list[dict[str, Any]]:
    """Write the pooling of a checkpoint without `modules.json`, and return the entries of the modules."""
    entries: list[dict[str, Any]] = []
    _add(entries, "Transformer", path="")
    pooling = output / _add(entries, "Pooling")
    pooling.mkdir()
    modes = card.pooling[0] if len(card.pooling) == 1 else list(card.pooling)
    _write(pooling / "config.json", {"embedding_dimension": card.dimension // len(card.pooling), "pooling_mode": modes})
    if card.normalize:
        _add(entries, "Normalize")
    return entries


def _add(entries: list[dict[str, Any]], kind: str, path: str | None = None) -> str:
    """Add a module to the entries of `modules.json`, and return its folder."""
    index = len(entries)
    folder = f"{index}_{kind}" if path is None else path
    entries.append({"idx": index, "name": str(index), "path": folder, "type": f"{TYPE}.{kind}"})
    return folder


def _change(file: Path, values: Mapping[str, Any]) -> None:
    """Set keys of a JSON file; None removes a key."""
    content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    content = {name: value for name, value in {**content, **values}.items() if values.get(name, "") is not None}
    _write(file, content)


def _write(file: Path, content: object) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
