"""Losses of sentence-transformers for the kinds of data. The module is imported by a training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sentence_transformers.sentence_transformer import losses as library
from sentence_transformers.util import pairwise_cos_sim

from ..options import ContrastiveOptions, TrainingOptions

__all__ = ["order_loss", "ranking_loss", "scored_loss", "vector_loss", "with_lengths"]


def ranking_loss(model: Any, options: ContrastiveOptions, training: TrainingOptions) -> Any:
    """Return the loss that takes the other texts of a batch as negatives. A batch beyond the mini-batch is computed in parts.

    Sources: Henderson et al., arXiv:1705.00652; GradCache, arXiv:2101.06983.
    """
    if training.batch_size > training.mini_batch_size:
        return library.CachedMultipleNegativesRankingLoss(
            model, scale=options.scale, mini_batch_size=training.mini_batch_size
        )
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
