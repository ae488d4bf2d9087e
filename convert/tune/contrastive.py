"""`tune_contrastive`: trains a model on texts that belong together, or on pairs with scores."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from fletcher.model_zoo.card import ModelCard
from fletcher.model_zoo.progress import SILENT, Progress
from fletcher.runtime.errors import InputError

from .data.examples import Example, Examples, read_examples
from .data.split import Split, SplitTexts, split_without_leaks
from .models.load import convert_trainable, fetch_trainable, load_trainable
from .options import ContrastiveOptions
from .outcome.bootstrap import Gain, Sample, compare_samples
from .outcome.figures import Embed, RankingData, pair_sample, ranking_sample
from .outcome.finish import Outcome, quantize_base, write_artifacts
from .outcome.results import TuneReport
from .outcome.state import open_run
from .packages import require_training
from .request import (
    TuneRequest,
    artifact_embed,
    changed_share,
    cut_texts,
    describe_data,
    make_report,
    torch_embed,
    with_progress,
)

__all__ = ["ranking_data", "training_columns", "tune_contrastive"]

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
    recipe = request.recipe
    examples = read_examples(request.data)
    content = [(one.query, one.positive, one.negatives, one.score, one.group) for one in examples.items]
    checkout = fetch_trainable(request.source, progress)
    run = open_run(request.output, request.key("contrastive", dict(checkout.sha256), content, options))
    base = convert_trainable(request.source, checkout, run.base, progress)
    _check_lengths(options, base.card)
    split = _split(request, examples, run.base, progress)

    from .models.adapters import add_lora, merge_lora
    from .training.losses import ranking_loss, scored_loss, with_lengths
    from .training.run import run_training, training_length
    from .training.task import TrainingTask

    model = load_trainable(base)
    if options.lora is not None:
        add_lora(model, options.lora, request.training.seed)
    scored = examples.kind == "scored"
    train, validation, test = (
        [examples.items[row] for row in part] for part in (split.train, split.validation, split.test)
    )
    held = {one.positive for one in (*validation, *test)}
    columns = training_columns(train, options.num_negatives, held, request.training.seed)
    loss = scored_loss(model, options) if scored else ranking_loss(model, options, request.training)
    texts = [text for one in train for text in (one.query, one.positive)]
    length = training_length(model, request.training)
    cut = changed_share(texts, cut_texts(model, texts, length)), length
    if cut[0]:
        progress.line(f"{cut[0]:.1%} of the training texts have more than {length} tokens and are cut")
    prompts = {column: base.card.prompts.get("query" if column == "query" else "document", "") for column in columns}
    task = TrainingTask(
        model=model,
        loss=with_lengths(model, loss, options.lengths, base.card.dimension),
        columns=columns,
        validate=_validation(validation, base.card, scored=scored),
        metric="rank correlation" if scored else "nDCG@10",
        learning_rate=_rate(model, options),
        prompts={} if scored else {name: prompt for name, prompt in prompts.items() if prompt},
        unique=not scored,
    )
    trained = run_training(task, request.training, run.training, progress)
    if options.lora is not None:
        merge_lora(model)
    different = list(dict.fromkeys(text for one in test for text in (one.query, one.positive)))
    outcome = Outcome(model, different, request.calibrating(texts), recipe, lengths=options.lengths)
    artifacts = write_artifacts(outcome, run, request.artifacts, progress)
    before = {"float32": run.base}
    if recipe is not None and (quantized := quantize_base(run, outcome, progress)) is not None:
        before[recipe.name] = quantized
    gains: list[Gain] = []
    for artifact in artifacts:
        progress.line(f"measuring {artifact.graph} before and after")
        with artifact_embed(before[artifact.graph]) as old, artifact_embed(Path(artifact.path)) as new:
            gains += _gains(artifact.graph, (test, train), request, (old, new), scored=scored)
    data = describe_data(request, examples.kind, examples.copies, split, cut)
    return make_report(request, "contrastive", run, base.card, (artifacts, gains, data, trained), options)


def _rate(model: Any, options: ContrastiveOptions) -> float:
    if options.lora is not None:
        return LORA_RATE
    width = getattr(model[0].model.config, "hidden_size", SMALL_WIDTH + 1)
    return SMALL_RATE if width <= SMALL_WIDTH else WIDE_RATE


def _check_lengths(options: ContrastiveOptions, card: ModelCard) -> None:
    """Raise an error if a shorter length is not shorter.

    Raises:
        InputError: that is so.
    """
    if options.lengths and options.lengths[0] >= card.dimension:
        raise InputError(
            f"--dimensions {options.dimensions}: {card.name} has {card.dimension} dimensions; choose fewer"
        )


def _split(request: TuneRequest, examples: Examples, base: Any, progress: Progress) -> Split:
    """Split the examples by the vectors of the model before the training."""
    keys = [(one.query, one.positive) for one in examples.items]
    texts = list(dict.fromkeys(text for pair in keys for text in pair))
    with artifact_embed(base) as embed:
        vectors = with_progress(embed, progress)(texts, "raw")
    places = {text: row for row, text in enumerate(texts)}
    split = split_without_leaks(
        SplitTexts(keys, places, vectors, [one.group for one in examples.items]), request.split, request.training.seed
    )
    progress.line(
        f"{len(split.train):,} examples to train, {len(split.validation):,} to validate, {len(split.test):,} to test; "
        f"{split.moved:,} moved because of near-duplicates"
    )
    return split


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
    models: tuple[Embed, Embed],
    *,
    scored: bool,
) -> list[Gain]:
    """Return the figures of a graph before and after."""
    test, train = examples
    old, new = (_sample(test, train, embed, scored=scored) for embed in models)
    name = "rank correlation" if scored else "nDCG@10"
    gains = [compare_samples(name, graph, old, new, seed=request.training.seed)]
    if (pairs := request.pairs) is not None:
        both = [pair_sample(pairs.first, pairs.second, pairs.scores, embed) for embed in models]
        gains.append(compare_samples("rank correlation of --pairs", graph, *both, seed=request.training.seed))
    return gains
