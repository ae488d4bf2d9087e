"""`calibrate_artifact`: fits a calibration to pairs of texts, and writes it into the artifact."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fletcher.model_zoo.progress import SILENT, Progress
from fletcher.quantize.measure.metrics import cosines
from fletcher.quantize.measure.pairs import LabeledPairs
from fletcher.runtime import Encoder
from fletcher.runtime.artifact.calibration import Measure, Method
from fletcher.runtime.artifact.writing import calibrate
from fletcher.runtime.errors import InputError
from fletcher.runtime.inputs import Pairs
from fletcher.runtime.tasks.sigmoids import sigmoid_scores

from ..embedded import unit_vectors
from ..packages import require_scikit_learn
from .fit import METHODS, check_pairs, cross_validated, fit, reliability
from .results import CalibrationReport

__all__ = ["calibrate_artifact", "positive_score"]


def positive_score(scores: NDArray[np.float64]) -> float:
    """Return the score of pairs that belong together, if there are only two scores.

    Raises:
        InputError: there are more.
    """
    kinds = np.unique(scores)
    if len(kinds) != 2:
        raise InputError(
            f"the pairs have {len(kinds)} different scores, from {kinds[0]:g} to {kinds[-1]:g}: name the smallest score of "
            "pairs that belong together with --positive"
        )
    return float(kinds[1])


def calibrate_artifact(
    folder: str | Path,
    pairs: LabeledPairs,
    *,
    name: str = "pairs",
    positive: float | None = None,
    method: Method | Literal["auto"] = "auto",
    input_type: str = "raw",
    progress: Progress = SILENT,
) -> CalibrationReport:
    """Fit a function from similarities to probabilities, and write it into the artifact's manifest.

    Args:
        folder: the artifact's folder.
        pairs: pairs of texts with a score; for a reranker, the query is the first text.
        name: source of the pairs.
        positive: smallest score of pairs that belong together. Default: the higher one of two scores.
        method: kind of function; `auto` is the one with the smaller Brier score on pairs that it was not fitted to.
        input_type: input type of both texts, as requests to `/similarity` have it.
        progress: receives a line per step.

    Raises:
        InputError: there are too few pairs of a kind, or more than two scores and no `positive`; the model gives neither
            vectors nor one score; or higher similarities do not mean that pairs belong together.
        ArtifactError: the artifact cannot be loaded or written.
        MissingPackageError: scikit-learn is not installed.
    """
    require_scikit_learn("a calibration")
    from sklearn.metrics import roc_auc_score

    threshold = positive_score(pairs.scores) if positive is None else positive
    answers = pairs.scores >= threshold
    check_pairs(answers, threshold)
    progress.line(f"computing the similarities of {len(pairs):,} pairs")
    with Encoder.load(folder) as encoder:
        measure, values = _similarities(encoder, pairs, input_type)
        card, digest, variant = encoder.card, encoder.artifact.digest, encoder.variant.name
    fits = [reliability(kind, cross_validated(values, answers, kind), answers) for kind in METHODS]
    best = min(fits, key=lambda one: one.brier).name if method == "auto" else method
    chosen = next(kind for kind in METHODS if kind == best)
    found = next(one for one in fits if one.name == best)
    facts = {"input_type": input_type, "error": found.error, "variant": variant}
    calibration = fit(values, answers, chosen, measure, **facts)
    plain = values.clip(0, 1) if measure == "cosine" else 1 / (1 + np.exp(-values.clip(-700, 700)))
    uncalibrated = reliability("uncalibrated", plain, answers)
    written = calibrate(folder, calibration, digest=digest)
    return CalibrationReport(
        sentence=f"The {best} calibration of {card.name} turns a {measure} into a probability that is off by "
        f"{found.error:.3f} on average (expected calibration error on other pairs; the {measure} itself: "
        f"{uncalibrated.error:.3f}).",
        model=card.name,
        artifact=str(folder),
        digest=written.digest,
        source=name,
        threshold=threshold,
        uncalibrated=uncalibrated,
        fits=tuple(fits),
        calibration=calibration,
        roc_auc=float(roc_auc_score(answers, values)),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _similarities(encoder: Encoder, pairs: LabeledPairs, input_type: str) -> tuple[Measure, NDArray[np.float64]]:
    """Return the similarity of each pair as the server computes it, float64, (n,).

    Raises:
        InputError: the model gives neither vectors nor one score.
    """
    card = encoder.card
    if card.output == "vectors":
        first, second = (
            unit_vectors(encoder.embed(side, input_type=input_type).vectors, side).astype(np.float64)
            for side in (pairs.first, pairs.second)
        )
        return "cosine", cosines(first, second)
    if card.output != "scores" or card.dimension != 1:
        raise InputError(
            f"{card.name} gives {card.output.replace('_', ' ')}: similarities of vectors and one score of a reranker can be "
            "calibrated"
        )
    if input_type != "raw":
        raise InputError(f"{card.name} is a reranker, whose texts have no input type: leave out --input-type")
    task = encoder.prepare(Pairs(pairs.first, pairs.second), output="scores")
    scores = task.finish(encoder.compute(task.encodings, task.output)).scores[:, 0]
    logits = sigmoid_scores(scores, card.activation, raw=True)
    if not np.isfinite(logits).all():
        raise InputError(f"{card.name} gives a score with NaN or infinity: verify the artifact")
    return "logit", logits
