"""`load_trainable`: a checkpoint as a model of sentence-transformers that can be trained, and its float32 artifact.

torch and sentence-transformers are imported by a load.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fletcher.model_zoo import Checkout, ModelCard, fetch
from fletcher.model_zoo.progress import Progress
from fletcher.runtime.artifact.durable import new_folder
from fletcher.runtime.artifact.folder import MANIFEST, Artifact
from fletcher.runtime.errors import CheckpointError, InputError

from ...checkpoint.adapters import base_source
from ...checkpoint.routes.layout import task_names
from ...checkpoint.routes.router import read_router
from ...export.card import settle_card
from ...export.export import export
from ...export.layout import plain_layout
from ...export.options import ExportOptions
from ...reference.load import load_witness
from ...reference.witness import quiet
from ..disk import is_full

__all__ = ["Trainable", "convert_trainable", "fetch_trainable", "load_trainable", "read_card", "save_model"]


@dataclass(frozen=True, slots=True)
class Trainable:
    """`Trainable`: a checkpoint to train.

    Attributes:
        checkout: the checkpoint's files.
        artifact: its artifact with a float32 graph for processors.
    """

    checkout: Checkout
    artifact: Artifact

    @property
    def card(self) -> ModelCard:
        """Card of the artifact."""
        return self.artifact.manifest.card


def fetch_trainable(source: str, progress: Progress) -> Checkout:
    """Fetch a checkpoint, and refuse one that cannot be trained.

    Args:
        source: SOURCE of the checkpoint.
        progress: receives lines.

    Raises:
        CheckpointError: the checkpoint cannot be trained.
        SourceError: it cannot be fetched, or its weights are quantized.
    """
    if (Path(source) / MANIFEST).is_file():
        origin = Artifact.open(source).manifest.origin.source
        raise CheckpointError(f"{source} is an artifact, and a checkpoint is trained: give its checkpoint, {origin}")
    checkout = fetch(source, progress=progress)
    _check_trainable(checkout.folder)
    return checkout


def read_card(checkout: Checkout, progress: Progress) -> ModelCard:
    """Return the card that the artifact of a checkpoint will have.

    Raises:
        CardError: the checkpoint does not say what it computes.
        CheckpointError: it cannot be converted.
    """
    with plain_layout(checkout, None, progress) as layout:
        return settle_card(replace(checkout, folder=layout.folder), ExportOptions())


def convert_trainable(source: str, checkout: Checkout, folder: Path, progress: Progress) -> Trainable:
    """Convert a checkpoint as it is before the training.

    Args:
        source: its SOURCE.
        checkout: its files.
        folder: folder for the artifact; an artifact of the same files there is used again.
        progress: receives lines.

    Raises:
        CheckpointError: the checkpoint cannot be converted.
    """
    artifact = _same_artifact(folder, checkout)
    if artifact is None:
        progress.line(f"converting {checkout.source} as it is")
        export(source, folder, progress=progress)
        artifact = Artifact.open(folder)
    return Trainable(checkout, artifact)


def _same_artifact(folder: Path, checkout: Checkout) -> Artifact | None:
    """Return the artifact in a folder, if it was made from these files."""
    if not (folder / MANIFEST).is_file():
        return None
    artifact = Artifact.open(folder)
    digests = artifact.manifest.origin.sha256
    return artifact if all(checkout.sha256.get(name) == digest for name, digest in digests.items()) else None


def _check_trainable(folder: Path) -> None:
    """Refuse a checkpoint that sentence-transformers' trainer cannot train or save as the same model.

    `fetch` refuses one whose weights are quantized.

    Raises:
        CheckpointError: the checkpoint is static, a LoRA, or has routes or adapters for tasks.
    """
    if base_source(folder) is not None:
        raise CheckpointError(
            f"{folder} is a LoRA of PEFT, whose products would be trained apart from their base model: merge them with PEFT "
            "(`merge_and_unload`), and train the saved model"
        )
    if (router := read_router(folder)) is not None:
        raise CheckpointError(
            f"{folder} has a Router ({', '.join(router.routes)}), and training needs to know the route of each column: train "
            "it with sentence-transformers' trainer and its `router_mapping`, and convert the result"
        )
    if tasks := task_names(folder):
        raise CheckpointError(
            f"{folder} has adapters for {', '.join(tasks)} among its tensors, and a training changes one set of weights: "
            "train a checkpoint of transformers' jina_embeddings_v3 without them, such as one with a merged adapter"
        )
    modules = folder / "modules.json"
    if modules.is_file() and "StaticEmbedding" in modules.read_text(encoding="utf-8"):
        raise CheckpointError(f"{folder} is a static model, a table without layers: it cannot be trained here")


def load_trainable(checkpoint: Trainable) -> Any:
    """Load the model, with the prompts and the longest input of its card.

    Raises:
        CheckpointError: sentence-transformers cannot load it, or transformers cannot save it.
        MissingPackageError: a package is not installed.
    """
    checkout = checkpoint.checkout
    model = load_witness(checkout.folder, checkpoint.card, zoo=checkout.has_published_settings).model
    if not hasattr(model[0].model, "save_pretrained"):
        raise CheckpointError(f"transformers has no {type(model[0].model).__name__}, so a tuned one could not be saved")
    model.prompts = {**model.prompts, **checkpoint.card.prompts}
    # The reference computes attention step by step. Training takes torch's joined kernel, whose result is the same.
    if getattr(model[0].model, "_supports_sdpa", False):
        with quiet():
            model[0].model.set_attn_implementation("sdpa")
    return model


def save_model(model: Any, folder: Path) -> None:
    """Write a trained model as a checkpoint of sentence-transformers. It appears when it is complete.

    Raises:
        InputError: there is no space.
    """
    try:
        with new_folder(folder) as temporary, quiet():
            model.save(str(temporary), create_model_card=False)
    except Exception as error:
        if not is_full(error):
            raise
        raise InputError(
            f"no space is left for the tuned model in {folder} ({error}). The training is kept: free some space, and run the "
            "command again"
        ) from error
