"""Training of a student on a teacher's vectors of unlabelled texts: quantization-aware, with fewer layers, or smaller.

`tune_aware` and `tune_distil` differ in the student; the data, the loss and the figures are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fletcher.model_zoo.progress import SILENT, Progress
from fletcher.quantize.recipe import Recipe
from fletcher.runtime import Encoder
from fletcher.runtime.errors import InputError

from ..quality.embedded import unit_vectors
from ..quality.measures.projection import fit_projection
from .data.examples import read_training_texts
from .data.split import Split, SplitTexts
from .models.load import Trainable, load_trainable
from .options import DistilOptions
from .outcome.bootstrap import Gain, Sample, compare_samples
from .outcome.figures import Embed, fidelity_samples, pair_sample
from .outcome.finish import Outcome
from .outcome.results import TuneReport
from .outcome.state import RunFolder
from .outline import Work, begin_training, calibration_texts, describe_data, finish_training
from .packages import require_training
from .request import (
    TuneRequest,
    artifact_embed,
    changed_share,
    cut_texts,
    split_texts,
    torch_embed,
    with_progress,
)

__all__ = ["tune_aware", "tune_distil"]

#: Learning rates of quantized layers and of a student with fewer layers. Quantized vectors are near the teacher's from the
#: beginning, and larger steps add more noise than rounding: after five epochs (with a loss on the states of tokens, too)
#: 1 - cosine of MiniLM was 3.0e-4 with 2e-5, 3.3e-4 with 1e-5, 5.4e-4 with 1e-4 and 2.0e-3 with 2e-4.
AWARE_RATE, STUDENT_RATE = 2e-5, 2e-4

#: Share of the activations' spread that moves into the weights. A recipe has less, because it cannot train the weights.
SPREAD = 0.8

#: Most training texts whose gradients decide about factors of smoothing.
SMOOTHING = 256

#: Most training texts whose activations decide how rounding errors of the weights cancel. Four times as many changed nothing.
COMPENSATING = 1000

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Lesson:
    """Texts with the vectors of the teacher, as they are and of length 1, and their split."""

    texts: list[str]
    raw: Vectors
    teacher: Vectors
    split: Split

    def part(self, rows: Sequence[int]) -> tuple[list[str], Vectors]:
        """Return texts and vectors of some rows."""
        return [self.texts[row] for row in rows], self.teacher[list(rows)]


def tune_aware(request: TuneRequest, *, progress: Progress = SILENT) -> TuneReport:
    """Train a model whose layers are quantized as by a recipe, so that its vectors come near those of float32.

    Args:
        request: checkpoint, unlabelled texts and options; `artifacts.recipe` names the recipe.
        progress: receives lines and counts.

    Raises:
        InputError: the texts cannot be trained on, the recipe cannot be imitated, a loss is not finite, or there is no space.
        CheckpointError: the checkpoint cannot be trained.
        MissingPackageError: a package of the extra `train` is not installed.
        VerificationError: an artifact differs from the trained model.
    """
    require_training()
    recipe = request.recipe
    if recipe is None:
        raise InputError("--recipe none: quantization-aware training needs the recipe that it trains for")
    texts, copies = read_training_texts(request.data)
    begun = begin_training(request, Work("qat", [texts, recipe]), progress)
    base, run = begun.base, begun.run
    lesson = _teach(request, texts, run.base, progress)
    train_texts, _ = lesson.part(lesson.split.train)
    test_texts, test_vectors = lesson.part(lesson.split.test)

    from fletcher.quantize.plan import plan_quantization

    from .aware.compensate import compensate_rounding
    from .aware.insert import make_aware
    from .aware.smooth import refinable, refine_smoothing
    from .training.run import training_length

    progress.line(f"measuring activations for {recipe.name}")
    plan = plan_quantization(base.artifact, _smoother(recipe), request.calibrating(train_texts))
    model = load_trainable(base)
    make_aware(model, model[0].model.get_input_embeddings(), plan)
    length = training_length(model, request.training)
    activations = plan.activations
    if refinable(plan):
        progress.line("choosing factors of smoothing by gradients")
        activations = refine_smoothing(
            model, plan, cut_texts(model, request.calibrating(train_texts, SMOOTHING), length)
        )
    progress.line("rounding the weights so that their errors cancel")
    compensate_rounding(model, cut_texts(model, request.calibrating(train_texts, COMPENSATING), length))
    trained, cut = _train(request, model, base, lesson, (run, AWARE_RATE), progress)
    outcome = Outcome(model, test_texts, request.calibrating(train_texts), recipe, activations)
    data = describe_data(request.data, "texts", copies, lesson.split, cut)

    def measure(graph: str, before: Embed, after: Embed) -> Iterator[Gain]:
        old, new = (fidelity_samples(embed(test_texts, "raw"), test_vectors) for embed in (before, after))
        yield from _fidelity_gains(graph, (old, new), request.training.seed)
        if request.pairs is not None:
            with artifact_embed(run.base) as teacher:
                yield _pair_gain(request, graph, (_pairs(request, before), _pairs(request, after)), teacher)

    return finish_training(begun, outcome, trained, data, measure)


def tune_distil(request: TuneRequest, options: DistilOptions, *, progress: Progress = SILENT) -> TuneReport:
    """Train a smaller model on the vectors of a larger one, from unlabelled texts alone.

    Args:
        request: checkpoint of the teacher, unlabelled texts and options.
        options: the student.
        progress: receives lines and counts.

    Raises:
        InputError: the texts cannot be trained on, the student is not smaller, a loss is not finite, or there is no space.
        CheckpointError: a checkpoint cannot be trained.
        MissingPackageError: a package of the extra `train` is not installed.
        VerificationError: an artifact differs from the trained model.
    """
    require_training()
    texts, copies = read_training_texts(request.data)
    begun = begin_training(request, Work("distil", texts, options, options.student), progress)
    student, run = begun.trained, begun.run
    model = load_trainable(student)
    if options.layers is not None:
        from .models.student import keep_layers

        chosen = keep_layers(model, options.layers)
        progress.line(f"the student begins with the layers {', '.join(map(str, chosen))} of the teacher")
    lesson = _teach(request, texts, run.base, progress)
    test_texts, test_vectors = lesson.part(lesson.split.test)
    train_texts, _ = lesson.part(lesson.split.train)
    calibrating = calibration_texts(begun, train_texts)
    progress.line("measuring the student before the training")
    initial = torch_embed(model.eval(), student.card)
    old_samples = fidelity_samples(initial(test_texts, "raw"), test_vectors)
    old_pairs = None if request.pairs is None else _pairs(request, initial)
    trained, cut = _train(request, model, student, lesson, (run, STUDENT_RATE), progress)
    outcome = Outcome(model, test_texts, calibrating, begun.recipe, student=True)
    data = describe_data(request.data, "texts", copies, lesson.split, cut)

    def measure(graph: str, teacher: Embed, after: Embed) -> Iterator[Gain]:
        samples = old_samples, fidelity_samples(after(test_texts, "raw"), test_vectors)
        yield from _fidelity_gains(graph, samples, request.training.seed)
        if old_pairs is not None:
            yield _pair_gain(request, graph, (old_pairs, _pairs(request, after)), teacher)

    return finish_training(begun, outcome, trained, data, measure)


def _smoother(recipe: Recipe) -> Recipe:
    """Return a recipe with a scale per token that smooths as much as trained weights can take; other recipes as they are."""
    if recipe.scheme != "int8-per-token" or recipe.smoothquant is None:
        return recipe
    return msgspec.structs.replace(recipe, smoothquant=max(recipe.smoothquant, SPREAD))


def _teach(request: TuneRequest, texts: list[str], base: Path, progress: Progress) -> _Lesson:
    """Compute the teacher's vectors, which the student learns and which find near-duplicates."""
    progress.line("embedding all texts: the student learns these vectors, and they show near-duplicates")
    with Encoder.load(base) as encoder:
        raw = with_progress(lambda part, kind: encoder.embed(part, input_type=kind).vectors, progress)(texts, "raw")
    teacher = unit_vectors(raw, texts)
    places = {text: row for row, text in enumerate(texts)}
    split = split_texts(request, SplitTexts([(text,) for text in texts], places, teacher), progress)
    return _Lesson(texts, raw, teacher, split)


def _shorten(lesson: _Lesson, model: Any, length: int, base: Path) -> tuple[_Lesson, float]:
    """Cut the texts of training and validation at the longest text in training, and return the share that was cut.

    The teacher must see what the student sees. The test keeps whole texts.
    """
    rows = [*lesson.split.train, *lesson.split.validation]
    whole, _ = lesson.part(rows)
    cut = cut_texts(model, whole, length)
    texts, raw, teacher = list(lesson.texts), lesson.raw.copy(), lesson.teacher.copy()
    changed = {row: text for row, text, before in zip(rows, cut, whole, strict=True) if text != before}
    if changed:
        for row, text in changed.items():
            texts[row] = text
        with Encoder.load(base) as encoder:
            vectors = encoder.embed(list(changed.values()), input_type="raw").vectors
        raw[list(changed)], teacher[list(changed)] = vectors, unit_vectors(vectors, list(changed.values()))
    return _Lesson(texts, raw, teacher, lesson.split), changed_share(whole, cut)


def _targets(lesson: _Lesson, dimension: int) -> Vectors:
    """Return the vectors to learn, with the student's length: PCA of the teacher's, or the teacher's and zeros.

    Zeros do not change cosines, and PCA without subtraction of the mean changes them least.
    """
    width = lesson.teacher.shape[1]
    if dimension < width:
        return fit_projection(lesson.teacher[list(lesson.split.train)], dimension)(lesson.teacher)
    return np.pad(lesson.teacher, ((0, 0), (0, dimension - width)))


def _train(
    request: TuneRequest,
    model: Any,
    student: Trainable,
    lesson: _Lesson,
    place: tuple[RunFolder, float],
    progress: Progress,
) -> tuple[Any, tuple[float, int]]:
    """Train a student, and return the training, and the share of cut texts with the longest text.

    Args:
        request: the training.
        model: the student.
        student: its checkpoint.
        lesson: texts and vectors of the teacher.
        place: folders, and the learning rate.
        progress: receives counts.
    """
    from .models.student import remove_dropout
    from .training.losses import vector_loss
    from .training.run import run_training, training_length
    from .training.task import TrainingTask

    run, rate = place
    remove_dropout(model)
    length = training_length(model, request.training)
    lesson, share = _shorten(lesson, model, length, run.base)
    if share:
        progress.line(f"{share:.1%} of the texts have more than {length} tokens and are cut")
    # The length of a vector is learned only if it can be: the model has no Normalize, and as many dimensions.
    lengths = not student.card.normalize and student.card.dimension == lesson.raw.shape[1]
    targets = _targets(lesson, student.card.dimension)
    labels = lesson.raw if lengths else targets
    rows, held = list(lesson.split.train), list(lesson.split.validation)
    held_texts, held_targets = lesson.part(held)[0], targets[held].astype(np.float64)

    def validate(trained: Any) -> float:
        vectors = torch_embed(trained, student.card)(held_texts, "raw")
        return float(np.einsum("nd,nd->n", vectors.astype(np.float64), held_targets).mean())

    task = TrainingTask(
        model=model,
        loss=vector_loss(model, normalized=not lengths),
        columns={"text": lesson.part(rows)[0], "label": list(labels[rows])},
        validate=validate,
        metric="cosine with the teacher",
        learning_rate=rate,
    )
    return run_training(task, request.training, run.training, progress), (share, length)


def _fidelity_gains(graph: str, samples: tuple[dict[str, Sample], dict[str, Sample]], seed: int) -> list[Gain]:
    old, new = samples
    return [compare_samples(name, graph, old[name], new[name], seed=seed) for name in new if name in old]


def _pairs(request: TuneRequest, embed: Embed) -> Sample:
    assert request.pairs is not None  # the callers ask before
    return pair_sample(request.pairs.first, request.pairs.second, request.pairs.scores, embed)


def _pair_gain(request: TuneRequest, graph: str, samples: tuple[Sample, Sample], teacher: Embed) -> Gain:
    reference = _pairs(request, teacher).figure()
    name = "rank correlation of --pairs"
    return compare_samples(name, graph, *samples, reference=reference, seed=request.training.seed)
