"""`run_training`: trains a model, or continues a training that was killed. The module is imported by a training."""

from __future__ import annotations

import math
import shutil
import time
from pathlib import Path
from typing import Any

import datasets
import msgspec
import transformers
from sentence_transformers import SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.training_args import BatchSamplers
from transformers import EarlyStoppingCallback, PrinterCallback, TrainerCallback

from fletcher.model_zoo.decode import decode_json
from fletcher.model_zoo.progress import Progress
from fletcher.runtime.artifact.durable import new_file
from fletcher.runtime.errors import InputError

from ...reference.witness import quiet
from ..options import TrainingOptions
from .task import Point, Trained, TrainingTask
from .trainer import (
    METRIC,
    CheckedTrainer,
    Validation,
    Watch,
    complete_checkpoints,
    load_weights,
    losses,
    required_bytes,
)

__all__ = ["LONGEST", "run_training", "training_length"]

#: File of the result of a finished training.
RESULT = "trained.json"

#: Tokens of the longest text in training, unless the options say otherwise.
LONGEST = 256


def training_length(model: Any, options: TrainingOptions) -> int:
    """Return the tokens of the longest text in training.

    Raises:
        InputError: the options ask for more than the model's longest input.
    """
    limit = model.max_seq_length or LONGEST
    if options.max_tokens is not None and options.max_tokens > limit:
        raise InputError(f"--max-tokens {options.max_tokens}: the model's longest input has {limit} tokens")
    return min(options.max_tokens or LONGEST, limit)


def run_training(task: TrainingTask, options: TrainingOptions, folder: Path, progress: Progress) -> Trained:
    """Train a model in place. At the end it has the weights of its best validated step.

    Args:
        task: model, loss and data.
        options: length, rates and checks.
        folder: folder of the training's checkpoints. A training with checkpoints there continues from the last complete one,
            and computes the losses that it would have computed without the interruption.
        progress: receives counts, loss, metric and the time that is left.

    Raises:
        InputError: a loss is not finite, or there is no space for the checkpoints.
    """
    if (finished := _finished(task, folder)) is not None:
        progress.line("the training is finished already")
        return finished
    count = len(next(iter(task.columns.values())))
    steps = options.steps or math.ceil(count / options.batch_size * options.epochs)
    every = max(1, math.ceil(steps / options.evaluations))
    steps = every * math.ceil(steps / every)
    _check_space(task.model, folder)
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=options.batch_size,
        learning_rate=options.learning_rate or task.learning_rate,
        warmup_steps=round(steps * options.warmup),
        weight_decay=options.weight_decay,
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model=f"eval_{METRIC}",
        greater_is_better=True,
        restore_callback_states_from_checkpoint=True,  # of the patience
        logging_steps=1,
        logging_nan_inf_filter=False,
        seed=options.seed,
        data_seed=options.seed,
        batch_sampler=BatchSamplers.NO_DUPLICATES if task.unique else BatchSamplers.BATCH_SAMPLER,
        prompts=dict(task.prompts) or None,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    watch = Watch()
    callbacks: list[TrainerCallback] = [watch]
    if options.patience:
        callbacks.append(EarlyStoppingCallback(options.patience))
    started = time.monotonic()
    length, limit = training_length(task.model, options), task.model.max_seq_length
    found = complete_checkpoints(folder)
    done = int(found[-1].name.rpartition("-")[2]) if found else 0
    try:
        task.model.max_seq_length = length
        if done:
            progress.line(f"continuing after step {done}")
        with quiet(), progress.count("training", total=steps, done=done, note=watch.note) as counter:
            transformers.set_seed(options.seed)
            trainer = CheckedTrainer(
                model=task.model,
                args=arguments,
                train_dataset=datasets.Dataset.from_dict(dict(task.columns)),
                loss=task.loss,
                evaluator=Validation(task.validate),
                callbacks=callbacks,
            )
            trainer.remove_callback(PrinterCallback)
            watch.counter = counter
            trainer.train_on(found[-1] if found else None)
    finally:
        task.model.max_seq_length = limit
    task.model.to("cpu").eval()
    state = trainer.state
    best = state.best_model_checkpoint
    trained = Trained(
        metric=task.metric,
        steps=state.global_step,
        planned=steps,
        best_step=int(str(best).rpartition("-")[2]) if best else state.global_step,
        best_metric=float(state.best_metric) if state.best_metric is not None else math.nan,
        resumed_from=done or None,
        seconds=time.monotonic() - started,
        learning_rate=arguments.learning_rate,
        log=tuple(Point(step=step, loss=loss, metric=metric) for step, loss, metric in losses(state.log_history)),
    )
    with new_file(folder / RESULT) as stream:
        stream.write(msgspec.json.encode(trained))
    return trained


def _finished(task: TrainingTask, folder: Path) -> Trained | None:
    """Return the result of a finished training, whose best weights the model then has; None if it is not finished."""
    file = folder / RESULT
    if not file.is_file():
        return None
    trained = decode_json(file.read_bytes(), Trained)
    load_weights(task.model, folder / f"checkpoint-{trained.best_step}")
    task.model.eval()
    return trained


def _check_space(model: Any, folder: Path) -> None:
    """Raise an error if the checkpoints do not fit on the disk.

    Raises:
        InputError: they do not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    needed, free = required_bytes(model), shutil.disk_usage(folder).free
    held = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if free + held < needed:
        raise InputError(
            f"the checkpoints of the training need {needed / 1e6:,.0f} MB in {folder}, and {free / 1e6:,.0f} MB are free: "
            "free some, or choose another -o"
        )
