"""`CheckedTrainer`: sentence-transformers' trainer, with errors for losses that are not numbers and for full disks.

A checkpoint of the training has the state of the model, whatever was put into it (LoRA, quantized layers), and of the
optimizer, the schedule and the generators. The module is imported by a training.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from sentence_transformers import SentenceTransformerTrainer
from sentence_transformers.sentence_transformer.evaluation import SentenceEvaluator
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.trainer_callback import TrainerControl, TrainerState
from transformers.training_args import TrainingArguments

from fletcher.model_zoo.progress import Counter
from fletcher.runtime.errors import InputError

from ..disk import is_full

__all__ = [
    "METRIC",
    "CheckedTrainer",
    "Validation",
    "Watch",
    "complete_checkpoints",
    "load_weights",
    "losses",
    "required_bytes",
]

#: Name of the metric in the trainer's logs.
METRIC = "held_out"

WEIGHTS, STATE = "weights.safetensors", "trainer_state.json"


class CheckedTrainer(SentenceTransformerTrainer):
    """`CheckedTrainer`: the trainer of sentence-transformers with checks."""

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """Return the loss of a batch.

        Raises:
            InputError: it is NaN or infinite.
        """
        loss = super().compute_loss(*args, **kwargs)
        value = loss[0] if isinstance(loss, tuple) else loss
        if not math.isfinite(float(value.detach())):
            raise self._diverged(f"the loss of step {self.state.global_step + 1} is {float(value.detach())}")
        return loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Measure the model, whose weights then may become a checkpoint.

        Raises:
            InputError: a weight is NaN or infinite, although the losses before it were finite.
        """
        if not all(bool(torch.isfinite(one).all()) for one in self.model.parameters()):
            raise self._diverged(f"the weights after step {self.state.global_step} have NaN or infinity")
        return super().evaluate(*args, **kwargs)

    def _diverged(self, cause: str) -> InputError:
        kept = ", ".join(path.name for path in complete_checkpoints(Path(str(self.args.output_dir))))
        rest = (
            f"Checkpoints kept: {kept}; remove {self.args.output_dir} to begin anew"
            if kept
            else "No checkpoint is kept"
        )
        return InputError(f"{cause}: lower --learning-rate. {rest}")

    def train_on(self, checkpoint: Path | None) -> None:
        """Train from the beginning, or from a checkpoint. After the last step of a training nothing is left to do.

        The library would compute another step after the last one, or after the patience ended.
        """
        if checkpoint is None:
            self.train()
            return
        state = TrainerState.load_from_json(str(checkpoint / STATE))
        if state.global_step < self.args.max_steps and not _out_of_patience(state):
            self.train(resume_from_checkpoint=str(checkpoint))
            return
        self.state = state
        self._load_best_model()

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Add nothing: a model card would need the hub."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.model, str(folder / WEIGHTS))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_weights(self.model, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        if self.state.best_model_checkpoint is not None:
            self._load_from_checkpoint(self.state.best_model_checkpoint)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Write a checkpoint; an incomplete one is removed.

        Raises:
            InputError: the disk is full.
        """
        folder = Path(str(self.args.output_dir))
        try:
            super()._save_checkpoint(*args, **kwargs)
        except Exception as error:
            shutil.rmtree(folder / f"checkpoint-{self.state.global_step}", ignore_errors=True)
            if not is_full(error):
                raise
            kept = [path.name for path in complete_checkpoints(folder)]
            raise InputError(
                f"no space is left in {folder} for the checkpoint of step {self.state.global_step} ({error}). Checkpoints "
                f"kept: {', '.join(kept) or 'none'}. Free some space, and run the command again, which continues"
            ) from error


def load_weights(model: torch.nn.Module, checkpoint: Path) -> None:
    """Give a model the weights of a checkpoint of its training."""
    load_model(model, str(checkpoint / WEIGHTS))


def _out_of_patience(state: TrainerState) -> bool:
    callbacks: Any = state.stateful_callbacks  # a mapping in files, whatever its annotation says
    stored = callbacks.get(EarlyStoppingCallback.__name__)
    if stored is None:
        return False
    waited = int(stored["attributes"]["early_stopping_patience_counter"])
    return waited >= int(stored["args"]["early_stopping_patience"])


def complete_checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints of a training, the earliest first. A killed process leaves an incomplete one behind."""
    found = []
    for path in folder.glob("checkpoint-*"):
        try:
            json.loads((path / STATE).read_text(encoding="utf-8"))  # the trainer writes it last
            found.append(path)
        except (OSError, ValueError):
            continue
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


def required_bytes(model: torch.nn.Module) -> int:
    """Return the space for three checkpoints: the best one, the last one, and one that is being written."""
    weights = sum(one.numel() * one.element_size() for one in model.state_dict().values())
    moments = sum(2 * one.numel() * one.element_size() for one in model.parameters() if one.requires_grad)
    return int(3 * (weights + moments))


class Validation(SentenceEvaluator):
    """`Validation`: evaluator of sentence-transformers around a function."""

    def __init__(self, validate: Callable[[Any], float]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._validate = validate
        self.primary_metric = METRIC

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        """Return the metric."""
        training = model.training
        model.eval()
        try:
            return {METRIC: self._validate(model)}
        finally:
            model.train(training)


class Watch(TrainerCallback):
    """`Watch`: callback that counts steps, and shows the loss and the metric."""

    def __init__(self) -> None:
        self.counter: Counter | None = None
        self._loss = self._metric = math.nan

    def note(self) -> str:
        """Return the last loss and metric as text."""
        parts = [("held-out", self._metric), ("loss", self._loss)]
        return ", ".join(f"{name} {value:.3f}" for name, value in parts if math.isfinite(value))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Count a step."""
        if self.counter is not None:
            self.counter.advance(1)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Remember the loss and the metric."""
        logs = kwargs.get("logs") or {}
        self._loss = logs.get("loss", self._loss)
        self._metric = logs.get(f"eval_{METRIC}", self._metric)


def losses(history: list[dict[str, float]]) -> Iterator[tuple[int, float | None, float | None]]:
    """Yield step, loss and metric of the trainer's log."""
    for entry in history:
        if "loss" in entry or f"eval_{METRIC}" in entry:
            yield int(entry["step"]), entry.get("loss"), entry.get(f"eval_{METRIC}")
