"""`tune_contrastive`: trains a model on texts that belong together, or on pairs with scores."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from fletcher.model_zoo.card import ModelCard
from fletcher.model_zoo.progress import SILENT, Progress
from fletcher.runtime.errors import InputError

from .data.examples import Example, read_examples
from .models.load import load_trainable
from .options import ContrastiveOptions
from .outcome.bootstrap import Gain, Sample, compare_samples
from .outcome.figures import Embed, RankingData, pair_sample, ranking_sample, remembered, shortened
from .outcome.finish import Outcome
from .outcome.results import TuneReport
from .outline import Work, begin_training, calibration_texts, describe_data, finish_training
from .packages import require_training
from .request import TuneRequest, column_prompts, cut_share, split_pairs, torch_embed

__all__ = ["check_lengths", "default_rate", "ranking_data", "training_columns", "tune_contrastive"]

#: Learning rates of all weights of a model of MiniLM's width, of all weights of a wider one, and of LoRA. On the
#: documentation of `benchmarks/tune/run.py contrastive` 1e-4 gained 0.101, 5e-5 0.094 and 2e-5 0.086 (validation data).
SMALL_RATE, WIDE_RATE, LORA_RATE = 1e-4, 2e-5, 2e-4

#: Largest width of a small model.
SMALL_WIDTH = 384

#: Most documents that the test's queries search.
MOST_DOCUMENTS = 5000


def tune_contrastive(
    request: TuneRequest, options: ContrastiveOptions | None = None, *, progress: Progress = SILENT
) -> TuneReport:
    """Train a model, write its artifacts, and measure it before and after on data that it was not trained on.

    Args:
        request: checkpoint, data and options. The data are pairs, triplets or scored pairs; see `read_examples`.
        options: loss, negatives, lengths and LoRA. Default: `ContrastiveOptions()`.
        progress: receives lines and counts.

    Raises:
        InputError: the data cannot be trained on, a loss is not finite, or there is no space.
        CheckpointError: the checkpoint cannot be trained.
        MissingPackageError: a package of the extra `train` is not installed.
        VerificationError: an artifact differs from the trained model.
    """
    require_training()
    options = ContrastiveOptions() if options is None else options
    examples = read_examples(request.data)
    content = [(one.query, one.positive, one.negatives, one.score, one.group) for one in examples.items]
    work = Work("contrastive", content, options, check=partial(check_lengths, options))
    begun = begin_training(request, work, progress)
    base, run = begun.base, begun.run
    split = split_pairs(request, examples.items, run.base, progress)

    from .models.adapters import add_lora, merge_lora
    from .training.losses import ranking_loss, scored_loss, with_lengths
    from .training.run import run_training, training_length
    from .training.task import TrainingTask

    model = load_trainable(base)
    if options.lora is not None:
        add_lora(model, options.lora, request.training.seed)
    scored = examples.kind == "scored"
    train, validation, test = split.parts(examples.items)
    held = {one.positive for one in (*validation, *test)}
    columns = training_columns(train, options.num_negatives, held, request.training.seed)
    loss = scored_loss(model, options) if scored else ranking_loss(model, options, request.training)
    texts = [text for one in train for text in (one.query, one.positive)]
    calibrating = calibration_texts(begun, texts)
    cut = cut_share(model, texts, training_length(model, request.training), progress)
    task = TrainingTask(
        model=model,
        loss=with_lengths(model, loss, options.lengths, base.card.dimension),
        columns=columns,
        validate=_validation(validation, base.card, scored=scored),
        metric="rank correlation" if scored else "nDCG@10",
        learning_rate=default_rate(model, options),
        prompts={} if scored else column_prompts(base.card, columns),
        unique=not scored,
    )
    trained = run_training(task, request.training, run.training, progress)
    if options.lora is not None:
        merge_lora(model)
    different = list(dict.fromkeys(text for one in test for text in (one.query, one.positive)))
    outcome = Outcome(model, different, calibrating, begun.recipe, lengths=options.lengths)
    data = describe_data(request.data, examples.kind, examples.copies, split, cut)

    def measure(graph: str, before: Embed, after: Embed) -> list[Gain]:
        return _gains(graph, (test, train), request, options.lengths, (before, after))

    return finish_training(begun, outcome, trained, data, measure)


def default_rate(model: Any, options: ContrastiveOptions) -> float:
    """Return the largest learning rate of a model, unless the options of the training have one."""
    if options.lora is not None:
        return LORA_RATE
    width = getattr(model[0].model.config, "hidden_size", SMALL_WIDTH + 1)
    return SMALL_RATE if width <= SMALL_WIDTH else WIDE_RATE


def check_lengths(options: ContrastiveOptions, card: ModelCard) -> None:
    """Raise an error if a shorter length is not shorter.

    Raises:
        InputError: that is so.
    """
    if options.lengths and options.lengths[0] >= card.dimension:
        raise InputError(
            f"--dimensions {options.dimensions}: {card.name} has {card.dimension} dimensions; choose fewer"
        )


def training_columns(train: Sequence[Example], num_negatives: int, held: set[str], seed: int) -> dict[str, list[Any]]:
    """Return the columns of the training: query, positive, and negatives or `label`.

    Every example must have the same number of negatives. One with fewer repeats its own, and one with none gets positives of
    other examples, which are its negatives in a batch anyway. A text that belongs to a held-out query is not a negative.

    Args:
        train: the examples.
        num_negatives: largest number of negatives.
        held: positives of held-out examples.
        seed: seed of the choice of other positives.
    """
    columns: dict[str, list[Any]] = {
        "query": [one.query for one in train],
        "positive": [one.positive for one in train],
    }
    if train[0].score is not None:
        return columns | {"label": [one.score for one in train]}
    positives: dict[str, set[str]] = {}
    for one in train:
        positives.setdefault(one.query, set()).add(one.positive)
    own = [
        [text for text in one.negatives if text not in held and text not in positives[one.query]][:num_negatives]
        for one in train
    ]
    width = max(map(len, own))
    generator = random.Random(seed)
    for one, found in zip(train, own, strict=True):
        if not found:
            others = (*generator.sample(columns["positive"], min(len(train), 2 * width + 2)), *columns["positive"])
            found.extend(islice((text for text in others if text not in positives[one.query]), width))
    for place in range(width):
        columns[f"negative_{place + 1}"] = [found[place % len(found)] for found in own]
    return columns


def ranking_data(asked: Sequence[Example], others: Sequence[Example] = ()) -> RankingData:
    """Return queries, and the documents that they search: their positives and negatives, and positives of other examples.

    Args:
        asked: examples whose queries are asked.
        others: examples whose positives are documents, as long as there are fewer than `MOST_DOCUMENTS`.
    """
    documents: dict[str, int] = {}
    for one in asked:
        for text in (one.positive, *one.negatives):
            documents.setdefault(text, len(documents))
    for one in others:
        if len(documents) >= MOST_DOCUMENTS:
            break
        documents.setdefault(one.positive, len(documents))
    relevant: dict[str, list[int]] = {}
    for one in asked:
        relevant.setdefault(one.query, []).append(documents[one.positive])
    return RankingData(tuple(relevant), tuple(documents), tuple(tuple(rows) for rows in relevant.values()))


def _sample(asked: Sequence[Example], others: Sequence[Example], embed: Embed, *, scored: bool) -> Sample:
    if not scored:
        return ranking_sample(ranking_data(asked, others), embed)
    scores = np.array([one.score for one in asked], np.float64)
    return pair_sample([one.query for one in asked], [one.positive for one in asked], scores, embed)


def _validation(validation: Sequence[Example], card: ModelCard, *, scored: bool) -> Any:
    """Return the function that measures a model on the validation data."""

    def validate(model: Any) -> float:
        return _sample(validation, (), torch_embed(model, card), scored=scored).figure()

    return validate


def _gains(
    graph: str,
    examples: tuple[Sequence[Example], Sequence[Example]],
    request: TuneRequest,
    lengths: Sequence[int],
    models: tuple[Embed, Embed],
) -> list[Gain]:
    """Return the figures of a graph before and after, of whole vectors and of the shorter lengths that were trained."""
    test, train = examples
    scored, seed = test[0].score is not None, request.training.seed
    name = "rank correlation" if scored else "nDCG@10"
    whole = [remembered(embed) for embed in models]
    gains = []
    for length in (None, *lengths):
        embeds = whole if length is None else [shortened(embed, length) for embed in whole]
        old, new = (_sample(test, train, embed, scored=scored) for embed in embeds)
        title = name if length is None else f"{name}, {length} dimensions"
        gains.append(compare_samples(title, graph, old, new, seed=seed))
    if (pairs := request.pairs) is not None:
        both = [pair_sample(pairs.first, pairs.second, pairs.scores, embed) for embed in models]
        gains.append(compare_samples("rank correlation of --pairs", graph, *both, seed=seed))
    return gains
