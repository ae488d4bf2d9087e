"""`CalibrationReport`: result of a calibration."""

from __future__ import annotations

import msgspec

from fletcher.runtime.artifact.calibration import Calibration

__all__ = ["CalibrationReport", "Reliability", "ReliabilityBin"]


class ReliabilityBin(msgspec.Struct, frozen=True, kw_only=True):
    """`ReliabilityBin`: pairs with a predicted probability within one tenth.

    Attributes:
        pairs: number of pairs.
        predicted: mean predicted probability.
        observed: share of the pairs that belong together.
    """

    pairs: int
    predicted: float
    observed: float


class Reliability(msgspec.Struct, frozen=True, kw_only=True):
    """`Reliability`: agreement of predicted probabilities with answers.

    Attributes:
        name: `uncalibrated`, `isotonic` or `logistic`.
        error: expected calibration error with ten bins (Guo et al., ICML 2017).
        brier: mean squared difference of prediction and answer (Brier score).
        bins: reliability diagram; empty bins are left out.
    """

    name: str
    error: float
    brier: float
    bins: tuple[ReliabilityBin, ...]


class CalibrationReport(msgspec.Struct, frozen=True, kw_only=True):
    """`CalibrationReport`: result of a calibration.

    Attributes:
        sentence: the result in one sentence.
        model: name of the model.
        artifact: folder of the artifact.
        digest: digest of the artifact with the calibration.
        source: name of the file of pairs.
        threshold: smallest score of a pair that belongs together.
        uncalibrated: the similarity itself, read as a probability: a cosine below 0 as 0, a logit as its sigmoid.
        fits: each method, on pairs that it was not fitted to: five parts, each predicted by the other four.
        calibration: the function that was written.
        roc_auc: area under the ROC curve of the similarities: how well their order separates the pairs.
        time: end of the calibration, UTC.
    """

    sentence: str
    model: str
    artifact: str
    digest: str
    source: str
    threshold: float
    uncalibrated: Reliability
    fits: tuple[Reliability, ...]
    calibration: Calibration
    roc_auc: float
    time: str
