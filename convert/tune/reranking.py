"""`tune_on_reranker`: trains a model on the scores that a reranker gives to the texts of each query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fletcher.model_zoo.progress import SILENT, Progress
from fletcher.runtime import Encoder
from fletcher.runtime.errors import InputError

from .contrastive import training_columns
from .data.examples import Example, read_examples
from .models.load import load_trainable
from .models.reranker import convert_reranker, find_reranker
from .options import DistilOptions
from .outcome.bootstrap import Gain, Sample, compare_samples
from .outcome.figures import TIE, Embed, order_sample
from .outcome.finish import Outcome
from .outcome.results import TuneReport
from .outline import Work, begin_training, calibration_texts, describe_data, finish_training
from .packages import require_training
from .request import TuneRequest, column_prompts, cut_share, split_pairs, torch_embed

__all__ = ["tune_on_reranker"]

RATE = 2e-5

#: Factor of the cosines before they are compared with a reranker's scores, as in contrastive training.
SCALE = 20.0

#: Negatives of each query that are judged.
NEGATIVES = 7

#: Scores of a sigmoid are kept this far from 0 and 1, so that their logits are finite.
EDGE = 1e-6


@dataclass(frozen=True, slots=True)
class _Judged:
    """Queries with texts and a reranker's scores of them."""

    queries: list[str]
    texts: list[list[str]]
    scores: list[NDArray[np.float64]]

    def sample(self, embed: Embed) -> Sample:
        """Return the share of each query's pairs of texts that a model orders as the reranker."""
        return order_sample(self.queries, self.texts, self.scores, embed)


def tune_on_reranker(request: TuneRequest, options: DistilOptions, *, progress: Progress = SILENT) -> TuneReport:
    """Train a model on a reranker's scores.

    Args:
        request: checkpoint and options. The data are queries with positives and negatives, as `tune mine` writes them.
        options: the reranker.
        progress: receives lines and counts.

    Raises:
        InputError: the data have no negatives or cannot be trained on, a loss is not finite, or there is no space.
        CheckpointError: the checkpoint cannot be trained.
        MissingPackageError: a package of the extra `train` is not installed.
        VerificationError: an artifact differs from the trained model.
    """
    require_training()
    if options.reranker is None or options.layers is not None or options.student is not None:
        raise InputError(
            "--reranker trains the checkpoint itself: leave out --layers and --student, or take two trainings"
        )
    examples = read_examples(request.data)
    if examples.kind != "triplets":
        raise InputError(f"{request.data} has no negatives to score: make them with `fletcher-convert tune mine`")
    items = [one for one in examples.items if one.negatives]
    content = [(one.query, one.positive, one.negatives, one.group) for one in items]
    found = find_reranker(options.reranker, progress)
    work = Work("distil", content, options, others=[found.digest])
    begun = begin_training(request, work, progress)
    base, run = begun.base, begun.run
    split = split_pairs(request, items, run.base, progress)
    parts = split.parts(items)
    columns = training_columns(
        parts[0], NEGATIVES, {one.positive for part in parts[1:] for one in part}, request.training.seed
    )
    documents = [column for name, column in columns.items() if name != "query"]
    train = [
        Example(query, found[0], tuple(found[1:])) for query, *found in zip(columns["query"], *documents, strict=True)
    ]
    with Encoder.load(convert_reranker(found, run.path / "reranker", progress)) as reranker:
        judged = [_judge(reranker, part, progress) for part in (train, *parts[1:])]
    validation, test = (_with_order(one) for one in judged[1:])

    from .training.losses import order_loss
    from .training.run import run_training, training_length
    from .training.task import TrainingTask

    model = load_trainable(base)
    card = base.card
    flat = [text for one in train for text in (one.query, one.positive)]
    calibrating = calibration_texts(begun, flat)
    cut = cut_share(model, flat, training_length(model, request.training), progress)
    task = TrainingTask(
        model=model,
        loss=order_loss(model, SCALE),
        columns=columns | {"label": [one.tolist() for one in judged[0].scores]},
        validate=lambda trained: validation.sample(torch_embed(trained, card)).figure(),
        metric="order of the reranker",
        learning_rate=RATE,
        prompts=column_prompts(card, columns),
    )
    trained = run_training(task, request.training, run.training, progress)
    asked = list(dict.fromkeys(text for one in parts[2] for text in (one.query, one.positive)))
    outcome = Outcome(model, asked, calibrating, begun.recipe)
    data = describe_data(request.data, "reranker scores", examples.copies, split, cut)

    def measure(graph: str, before: Embed, after: Embed) -> list[Gain]:
        samples = test.sample(before), test.sample(after)
        return [compare_samples("order of the reranker", graph, *samples, seed=request.training.seed)]

    return finish_training(begun, outcome, trained, data, measure)


def _judge(reranker: Encoder, examples: Sequence[Example], progress: Progress) -> _Judged:
    """Return the reranker's logits of all texts of each query; the first text is the positive."""
    queries, texts, scores = [], [], []
    sigmoid = reranker.card.activation == "sigmoid"
    with progress.count("judging", total=len(examples), units=("queries",)) as counter:
        for one in examples:
            found = [one.positive, *one.negatives]
            values = reranker.score(one.query, found).scores[:, 0].astype(np.float64)
            if sigmoid:
                values = np.clip(values, EDGE, 1 - EDGE)
                values = np.log(values / (1 - values))
            queries.append(one.query)
            texts.append(found)
            scores.append(values)
            counter.advance(1)
    return _Judged(queries, texts, scores)


def _with_order(judged: _Judged) -> _Judged:
    """Return the queries of which at least two texts have different scores.

    Raises:
        InputError: there is none.
    """
    kept = [row for row, scores in enumerate(judged.scores) if np.ptp(scores) > TIE]
    if not kept:
        raise InputError(
            "the reranker gives the texts of every held-out query one score, from which no order can be learned"
        )
    return _Judged(
        [judged.queries[row] for row in kept], [judged.texts[row] for row in kept], [judged.scores[row] for row in kept]
    )
