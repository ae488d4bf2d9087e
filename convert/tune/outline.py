"""`begin_training` and `finish_training`: the steps of every training before and after those of its method."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from fletcher.model_zoo.card import ModelCard
from fletcher.model_zoo.progress import Progress
from fletcher.quantize.calibration import encode_calibration, needs_calibration
from fletcher.quantize.recipe import Recipe
from fletcher.runtime.errors import InputError

from ..verify.comparison import versions
from .data.split import Split
from .models.load import Trainable, convert_trainable, fetch_trainable, read_card
from .outcome.bootstrap import Gain
from .outcome.figures import Embed
from .outcome.finish import Outcome, baselines, write_artifacts
from .outcome.results import DataFigures, Method, TuneReport, conclude
from .outcome.state import RunFolder, open_run
from .request import TuneRequest, artifact_embed, with_progress
from .training.task import Trained

__all__ = ["Begun", "Measure", "Work", "begin_training", "calibration_texts", "describe_data", "finish_training"]

#: Function that returns the figures of a graph. It gets the graph's name, and the model before and after the training.
Measure = Callable[[str, Embed, Embed], Iterable[Gain]]


@dataclass(frozen=True, slots=True)
class Work:
    """`Work`: the method of a training, its data and its options.

    Attributes:
        method: the method.
        content: the data, from which, with the options, follows whether a training can be continued.
        options: options of the method, or None.
        student: SOURCE of the checkpoint that is trained; None for that of the request.
        others: digests of artifacts that it reads.
        check: function that raises an error if the options do not fit the model that is trained.
    """

    method: Method
    content: object
    options: object = None
    student: str | None = None
    others: Sequence[object] = ()
    check: Callable[[ModelCard], None] = lambda card: None


@dataclass(frozen=True, slots=True)
class Begun:
    """`Begun`: a training whose checkpoint is converted as it is.

    Attributes:
        request: the training.
        work: its method.
        run: its folder.
        recipe: recipe that quantizes the tuned model, or None.
        base: the checkpoint.
        trained: the checkpoint that is trained, which is `base` without a student.
        progress: receives lines and counts.
    """

    request: TuneRequest
    work: Work
    run: RunFolder
    recipe: Recipe | None
    base: Trainable
    trained: Trainable
    progress: Progress


def begin_training(request: TuneRequest, work: Work, progress: Progress) -> Begun:
    """Fetch the checkpoints, check the options, open the folder of the training, and convert the checkpoints as they are.

    Raises:
        InputError: an option does not fit the model, or the folder has something else.
        CheckpointError: the checkpoint cannot be trained.
    """
    recipe = request.recipe
    teacher = fetch_trainable(request.source, progress)
    student = None if work.student is None else fetch_trainable(work.student, progress)
    cards = [read_card(one, progress) for one in (teacher, student) if one is not None]
    for card in cards:
        if card.output != "vectors":
            raise InputError(
                f"{card.name} gives {card.output.replace('_', ' ')}, and only models of vectors are trained"
            )
    work.check(cards[-1])
    longest = request.training.max_tokens
    if longest is not None and longest > cards[-1].max_tokens:
        raise InputError(f"--max-tokens {longest}: the model's longest input has {cards[-1].max_tokens} tokens")
    files = [dict(one.sha256) for one in (teacher, student) if one is not None]
    run = open_run(request.output, request.key(work.method, [*files, *work.others], work.content, work.options))
    base = convert_trainable(request.source, teacher, run.base, progress)
    trained = base
    if work.student is not None and student is not None:
        trained = convert_trainable(work.student, student, run.path / "student", progress)
    return Begun(request, work, run, recipe, base, trained, progress)


def calibration_texts(begun: Begun, texts: Sequence[str]) -> list[str]:
    """Return training texts that calibrate the recipe, after a check that would fail only after the training.

    Raises:
        InputError: all texts have the same length, from which the recipe learns nothing about others.
    """
    recipe, chosen = begun.recipe, begun.request.calibrating(texts)
    if recipe is not None and needs_calibration(recipe, [recipe.default]):
        try:
            encode_calibration(begun.trained.artifact, chosen)
        except InputError as error:
            raise InputError(f"{error}, or choose --recipe none") from None
    return chosen


def finish_training(
    begun: Begun, outcome: Outcome, trained: Trained, data: DataFigures, measure: Measure
) -> TuneReport:
    """Write the artifacts, compare them with those of the model before the training, and return the report.

    Args:
        begun: the training.
        outcome: the trained model.
        trained: losses and metrics.
        data: figures of the data.
        measure: returns the figures of a graph.

    Raises:
        VerificationError: an artifact differs from sentence-transformers, or from the trained model.
    """
    request, run, progress = begun.request, begun.run, begun.progress
    name = f"{begun.trained.card.name}-tuned"
    artifacts = write_artifacts(outcome, name, run, request.artifacts, progress)
    gains: list[Gain] = []
    for graph, folder in baselines(run, outcome, progress).items():
        progress.line(f"measuring {graph} before and after")
        with artifact_embed(folder) as before, artifact_embed(run.artifact(graph)) as after:
            gains += measure(graph, with_progress(before, progress), with_progress(after, progress))
    chosen: dict[str, object] = {}
    for struct in (request.split, request.training, request.artifacts, begun.work.options):
        if isinstance(struct, msgspec.Struct):
            chosen |= {name: getattr(struct, name) for name in struct.__struct_fields__}
    return TuneReport(
        sentence=conclude(tuple(gains)),
        method=begun.work.method,
        model=begun.base.card.name,
        source=request.source,
        checkpoint=str(run.checkpoint),
        artifacts=tuple(artifacts),
        gains=tuple(gains),
        data=data,
        training=trained,
        options=chosen,
        time=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        tools=dict(
            versions("longbow-fletcher", "sentence-transformers", "transformers", "torch", "peft", "onnxruntime")
        ),
    )


def describe_data(source: Path, kind: str, copies: int, split: Split, cut: tuple[float, int]) -> DataFigures:
    """Return the figures of the data.

    Args:
        source: file or folder.
        kind: kind of the examples.
        copies: examples that were left out.
        split: the split.
        cut: share of the texts that are cut, and the tokens of the longest text.
    """
    return DataFigures(
        source=str(source),
        kind=kind,
        copies=copies,
        train=len(split.train),
        validation=len(split.validation),
        test=len(split.test),
        moved=split.moved,
        cut=cut[0],
        max_tokens=cut[1],
    )
