"""A training of a tiny model in a process of its own, which a test kills: `python -m … CHECKPOINT FOLDER OUTPUT`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec

from fletcher.convert.texts import SENTENCES
from fletcher.convert.tune.options import TrainingOptions
from fletcher.convert.tune.training.task import Trained, TrainingTask
from fletcher.model_zoo.progress import SILENT

__all__ = ["OPTIONS", "make_task", "train"]

#: Eight checkpoints of three steps, which go through more than one epoch.
OPTIONS = TrainingOptions(
    steps=24, batch_size=8, mini_batch_size=4, learning_rate=1e-3, evaluations=8, patience=0, max_tokens=16
)


def make_task(checkpoint: Path, **fields: Any) -> TrainingTask:
    """Return a task with dropout, cached ranking loss, and a metric that the weights decide."""
    from sentence_transformers import SentenceTransformer

    from fletcher.convert.tune.options import ContrastiveOptions
    from fletcher.convert.tune.training.losses import ranking_loss

    model = SentenceTransformer(str(checkpoint), device="cpu")
    halves = [(text[: len(text) // 2], text[len(text) // 2 :]) for text in SENTENCES]
    given: dict[str, Any] = {
        "model": model,
        "loss": ranking_loss(model, ContrastiveOptions(), OPTIONS),
        "columns": {"query": [one for one, _ in halves], "positive": [other for _, other in halves]},
        "validate": lambda trained: float(trained.encode("a word", convert_to_numpy=True)[0]),
        "metric": "first element",
        "learning_rate": 1.0,
        "unique": True,
    }
    return TrainingTask(**(given | fields))


def train(checkpoint: Path, folder: Path, options: TrainingOptions = OPTIONS, **fields: Any) -> Trained:
    """Run the training, or continue it."""
    from fletcher.convert.tune.training.run import run_training

    return run_training(make_task(checkpoint, **fields), options, folder, SILENT)


if __name__ == "__main__":
    result = train(Path(sys.argv[1]), Path(sys.argv[2]))
    Path(sys.argv[3]).write_bytes(msgspec.json.encode(result))
