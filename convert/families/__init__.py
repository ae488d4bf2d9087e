"""Families: each file turns the configuration and tensors of one family into an `Architecture`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from fletcher.runtime.errors import CheckpointError

from ..architecture import Architecture
from ..checkpoint.checkpoint import Checkpoint
from .albert import describe_albert
from .bert import describe_bert
from .distilbert import describe_distilbert
from .electra import describe_electra
from .gte import describe_gte
from .jina_bert import describe_jina_bert
from .modernbert import describe_modernbert
from .mpnet import describe_mpnet
from .nomic_bert import describe_nomic_bert
from .roberta import describe_roberta

__all__ = ["FAMILIES", "describe"]

#: Authored families by `model_type`.
FAMILIES: Mapping[str, Callable[[Checkpoint], Architecture]] = MappingProxyType(
    {
        "albert": describe_albert,
        "bert": describe_bert,
        "camembert": describe_roberta,
        "distilbert": describe_distilbert,
        "electra": describe_electra,
        "gte": describe_gte,
        "jina_bert": describe_jina_bert,
        "modernbert": describe_modernbert,
        "new": describe_gte,
        "mpnet": describe_mpnet,
        "nomic_bert": describe_nomic_bert,
        "roberta": describe_roberta,
        "xlm-roberta": describe_roberta,
    }
)


def describe(checkpoint: Checkpoint) -> Architecture:
    """Return the architecture of a checkpoint's encoder; the caller adds the modules after it.

    Args:
        checkpoint: checkpoint to describe.

    Raises:
        CheckpointError: the family is not authored, or the checkpoint cannot be converted without guessing.
    """
    family = checkpoint.config.get("model_type")
    if family == "bert" and checkpoint.config.get("position_embedding_type") == "alibi":
        family = "jina_bert"  # its configuration has the model type bert
    if not isinstance(family, str) or family not in FAMILIES:
        raise CheckpointError(
            f"{checkpoint.folder} has the model type {family!r}; Fletcher authors {', '.join(sorted(FAMILIES))}. "
            "Try --exporter optimum, which traces the families that Optimum knows"
        )
    return FAMILIES[family](checkpoint)
