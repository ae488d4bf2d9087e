"""`TuneReport`: result of a training as data. It computes no figure."""

from __future__ import annotations

from typing import Literal

import msgspec

from ..training.task import Trained
from .bootstrap import Gain

__all__ = ["DataFigures", "Exactness", "Method", "TuneReport", "TunedArtifact", "conclude"]

Method = Literal["contrastive", "distil", "qat"]


class DataFigures(msgspec.Struct, frozen=True, kw_only=True):
    """`DataFigures`: the training data.

    Attributes:
        source: file or folder.
        kind: `pairs`, `triplets`, `scored`, `texts`, or `reranker scores`.
        copies: examples that equal an earlier one and were left out.
        train: examples that were trained on.
        validation: examples that chose the best step.
        test: examples that the report measures.
        moved: examples that were drawn for validation or test and moved to the training because of a near-duplicate there.
        cut: share of the training texts that are longer than the longest text in training.
        max_tokens: tokens of that longest text.
    """

    source: str
    kind: str
    copies: int
    train: int
    validation: int
    test: int
    moved: int
    cut: float
    max_tokens: int


class Exactness(msgspec.Struct, frozen=True, kw_only=True):
    """`Exactness`: difference of an artifact's vectors from those of the trained model in torch.

    Attributes:
        texts: number of compared texts of the test, evenly spaced by length.
        median: median over the texts of the largest absolute difference of an element.
        largest: largest of these differences.
        settled: largest difference if values between two codes have one code in both; None without quantized layers.
        ties: share of the activations that lie between two codes, and have another code in torch.
    """

    texts: int
    median: float
    largest: float
    settled: float | None = None
    ties: float | None = None


class TunedArtifact(msgspec.Struct, frozen=True, kw_only=True):
    """`TunedArtifact`: an artifact that was written.

    Attributes:
        path: its folder.
        graph: `float32`, or the name of a recipe.
        digest: its digest.
        status: origin of its canary: `verified` if it was compared with sentence-transformers.
        num_bytes: size of its folder.
        exactness: its difference from the trained model.
    """

    path: str
    graph: str
    digest: str
    status: str
    num_bytes: int
    exactness: Exactness


class TuneReport(msgspec.Struct, frozen=True, kw_only=True):
    """`TuneReport`: result of a training.

    Attributes:
        sentence: the result in one sentence.
        method: `contrastive`, `distil` or `qat`.
        model: name of the model before the training.
        source: SOURCE of its checkpoint.
        checkpoint: folder of the tuned checkpoint, which sentence-transformers loads.
        artifacts: the artifacts that were written.
        gains: figures before and after, on test data.
        data: the data.
        training: the training.
        options: options by name.
        time: time of the report, ISO 8601.
        tools: versions of packages.
    """

    sentence: str
    method: Method
    model: str
    source: str
    checkpoint: str
    artifacts: tuple[TunedArtifact, ...]
    gains: tuple[Gain, ...]
    data: DataFigures
    training: Trained
    options: dict[str, object]
    time: str
    tools: dict[str, str]


def conclude(gains: tuple[Gain, ...]) -> str:
    """Return the result in one sentence: the first figure of each graph decides."""
    parts = []
    for gain in {one.graph: one for one in reversed(gains)}.values():
        text = f"{gain.name} in {gain.graph} went from {gain.before.value:.4f} to {gain.after.value:.4f}"
        ends = f"difference {gain.gain.low:+.4f} to {gain.gain.high:+.4f}"
        if gain.verdict == "better":
            parts.append(f"{text} ({ends})")
        elif gain.verdict == "worse":
            parts.append(f"the training did harm: {text} ({ends})")
        else:
            parts.append(f"nothing was gained beyond noise: {text} ({ends})")
    sentence = "; ".join(reversed(parts))
    # nDCG keeps its first letter.
    return f"{sentence if sentence[1:2].isupper() else sentence[:1].upper() + sentence[1:]}."
