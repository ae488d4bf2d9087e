"""Losses of sentence-transformers for the kinds of data. The module is imported by a training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from sentence_transformers.sentence_transformer import losses as library
from sentence_transformers.util import pairwise_cos_sim

from ..options import ContrastiveOptions, TrainingOptions

__all__ = ["SortedRankingLoss", "order_loss", "ranking_loss", "scored_loss", "vector_loss", "with_lengths"]


class SortedRankingLoss(library.CachedMultipleNegativesRankingLoss):
    """`SortedRankingLoss`: the cached ranking loss with texts of similar length in each part of a batch.

    A part is as wide as its longest text. The vectors return to the order of the batch before the loss, so loss and gradients
    are those of the library.
    """

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Any) -> Any:
        """Return the loss of a batch."""
        features = list(sentence_features)
        self._orders = [one["attention_mask"].sum(dim=1).argsort(stable=True).tolist() for one in features]
        return super().forward([_in_order(*one) for one in zip(features, self._orders, strict=True)], labels)

    def calculate_loss(self, reps: list[list[Any]], labels: Any = None, *, with_backward: bool = False) -> Any:
        """Return the loss of the vectors of a batch, which are in the order of their computation."""
        columns = []
        for parts, order in zip(reps, self._orders, strict=True):
            rows = [row for part in parts for row in part]
            # `stack` keeps nothing for its gradient, which the library computes once for each part.
            columns.append([torch.stack([rows[place] for place in np.argsort(order)])])
        return super().calculate_loss(columns, labels, with_backward=with_backward)


def _in_order(feature: dict[str, Any], order: list[int]) -> dict[str, Any]:
    """Return the tensors of a column of texts with its rows in another order."""
    return {
        name: value[order] if isinstance(value, torch.Tensor) and value.ndim and len(value) == len(order) else value
        for name, value in feature.items()
    }


def ranking_loss(model: Any, options: ContrastiveOptions, training: TrainingOptions) -> Any:
    """Return the loss that takes the other texts of a batch as negatives. A batch beyond the mini-batch is computed in parts.

    Sources: Henderson et al., arXiv:1705.00652; GradCache, arXiv:2101.06983.
    """
    if training.batch_size > training.mini_batch_size:
        return SortedRankingLoss(model, scale=options.scale, mini_batch_size=training.mini_batch_size)
    return library.MultipleNegativesRankingLoss(model, scale=options.scale)


def scored_loss(model: Any, options: ContrastiveOptions) -> Any:
    """Return the loss of pairs with scores: CoSENT, or AnglE (arXiv:2309.12871)."""
    if options.scored_loss == "angle":
        return library.AnglELoss(model, scale=options.scale)
    return library.CoSENTLoss(model, scale=options.scale)


def with_lengths(model: Any, loss: Any, lengths: Sequence[int], dimension: int) -> Any:
    """Return the loss summed over shorter lengths of the vectors (Matryoshka, arXiv:2205.13147)."""
    return library.MatryoshkaLoss(model, loss, matryoshka_dims=[dimension, *lengths]) if lengths else loss


def vector_loss(model: Any, *, normalized: bool) -> Any:
    """Return the distance to a teacher's vectors: 1 - cosine, or the squared distance if their lengths matter."""
    return library.EmbedDistillLoss(model, distance_metric="cosine" if normalized else "mse")


def order_loss(model: Any, scale: float) -> Any:
    """Return the divergence of the distribution over a query's texts from that of a reranker's scores (arXiv:2010.11386)."""
    return library.DistillKLDivLoss(
        model, similarity_fct=pairwise_cos_sim, student_temperature=1 / scale, teacher_temperature=1.0
    )
