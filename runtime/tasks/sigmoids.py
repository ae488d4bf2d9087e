"""`sigmoid_scores`: logits or sigmoids of a reranker's scores, whatever activation function its graph has."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["sigmoid_scores"]

#: Difference between 1 and the next smaller float32. A sigmoid that is closer than this to 0 or 1 does not determine its
#: logit.
SIGMOID_STEP = 2.0**-24


def sigmoid_scores(scores: NDArray[np.float32], activation: str | None, *, raw: bool) -> NDArray[np.float64]:
    """Return logits or their sigmoids, computed from scores after the activation function of the model.

    A float32 sigmoid within 2**-24 of 0 or 1 is treated as a logit of about 16.6 or -16.6.
    """
    values = scores.astype(np.float64)
    if activation == "sigmoid":
        if not raw:
            return values
        inside = np.clip(values, SIGMOID_STEP, 1 - SIGMOID_STEP)
        logits: NDArray[np.float64] = np.log(inside) - np.log1p(-inside)
        return logits
    if raw:
        return values
    sigmoids: NDArray[np.float64] = np.exp(-np.logaddexp(0.0, -values))
    return sigmoids
