"""Families: each file turns the configuration and tensors of one family into an `Architecture`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from fletcher.runtime.errors import CheckpointError

from ..architecture import Architecture
from ..checkpoint.checkpoint import Checkpoint
from .albert import describe_albert
from .bert import describe_bert
from .decoders.embedding_gemma2 import describe_embedding_gemma2
from .decoders.gemma import describe_gemma, describe_gemma3
from .decoders.lfm2 import describe_lfm2
from .decoders.llama import (
    describe_eurobert,
    describe_llama,
    describe_llama_bidirec,
    describe_ministral3,
    describe_mistral,
    explain_scale,
)
from .decoders.qwen import describe_qwen
from .distilbert import describe_distilbert
from .electra import describe_electra
from .jina_bert import describe_jina_bert
from .modernbert import describe_modernbert
from .mpnet import describe_mpnet
from .roberta import describe_roberta, describe_xlm_roberta_xl
from .rotary.gte import describe_gte
from .rotary.jina_embeddings_v3 import describe_jina_embeddings_v3
from .rotary.nomic_bert import describe_nomic_bert, explain_scaling
from .settings.nearest import explain_nearest
from .special_attention.big_bird import describe_big_bird, explain_blocks
from .special_attention.convbert import describe_convbert
from .special_attention.deberta_v2 import describe_deberta_v2
from .special_attention.longformer import describe_longformer
from .static_embedding import describe_static_embedding
from .t5 import describe_t5

__all__ = ["FAMILIES", "TRACED", "UNTRACED", "check_family", "describe", "explain_limit"]

#: Authored families by `model_type`.
FAMILIES: Mapping[str, Callable[[Checkpoint], Architecture]] = MappingProxyType(
    {
        "albert": describe_albert,
        "bert": describe_bert,
        "big_bird": describe_big_bird,
        "camembert": describe_roberta,
        "convbert": describe_convbert,
        "deberta-v2": describe_deberta_v2,
        "distilbert": describe_distilbert,
        "electra": describe_electra,
        "embedding_gemma2_text": describe_embedding_gemma2,
        "eurobert": describe_eurobert,
        "gemma": describe_gemma,
        "gemma3_text": describe_gemma3,
        "gte": describe_gte,
        "jina_bert": describe_jina_bert,
        "jina_embeddings_v3": describe_jina_embeddings_v3,
        "lfm2": describe_lfm2,
        "lfm2_bidirectional": describe_lfm2,
        "llama": describe_llama,
        "llama_bidirec": describe_llama_bidirec,
        "longformer": describe_longformer,
        "ministral3": describe_ministral3,
        "ministral3_bidirec": describe_ministral3,
        "mistral": describe_mistral,
        "modernbert": describe_modernbert,
        "new": describe_gte,
        "mpnet": describe_mpnet,
        "mt5": describe_t5,
        "nomic_bert": describe_nomic_bert,
        "qwen2": describe_qwen,
        "qwen3": describe_qwen,
        "roberta": describe_roberta,
        "static_embedding": describe_static_embedding,
        "t5": describe_t5,
        "xlm-roberta": describe_roberta,
        "xlm-roberta-xl": describe_xlm_roberta_xl,
    }
)


#: Families that `--exporter optimum` was tried with (Optimum 0.1, transformers 4.57): its vectors are those of
#: sentence-transformers within 1e-5.
TRACED = frozenset(
    {
        *(
            "data2vec-text",
            "deberta",
            "esm",
            "gemma2",
            "gpt2",
            "ibert",
        ),
        *("mpt", "phi3", "rembert", "roformer", "splinter", "squeezebert"),
    }
)
#: Families that have a decoder too, and those that `--exporter optimum` was tried with in vain, with the reason.
_DECODERS = "it is an encoder with a decoder, of which Optimum makes two graphs"
_NO_EXPORT = "Optimum has no export for it"
_PADDING = "its values change with the padding of a batch, so that Optimum's graph is refused"
UNTRACED: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("bart", "longt5", "m2m_100", "marian", "mbart", "pegasus", "umt5"), _DECODERS),
        **dict.fromkeys(("ernie", "funnel", "xlnet"), _NO_EXPORT),
        "nystromformer": _PADDING,
    }
)


def explain_limit(checkpoint: Checkpoint) -> str:
    """Return why texts beyond the longest one are refused, as the rest of a sentence; nothing for most families."""
    match checkpoint.config.get("model_type"):
        case "big_bird":
            return explain_blocks(checkpoint)
        case "ministral3" | "ministral3_bidirec":
            return explain_scale()
        case "nomic_bert":
            return explain_scaling(checkpoint)
    return ""


def check_family(checkpoint: Checkpoint) -> str:
    """Return the family of a checkpoint.

    Raises:
        CheckpointError: the family is not authored; the message has the next step for it.
    """
    family = checkpoint.config.get("model_type")
    if family == "bert" and checkpoint.config.get("position_embedding_type") == "alibi":
        return "jina_bert"  # its configuration has the model type bert
    if not isinstance(family, str):
        raise CheckpointError(f"{checkpoint.folder / 'config.json'} has no model_type, so the family is unknown")
    if family in FAMILIES:
        return family
    if family in TRACED:
        advice = "Use --exporter optimum, which traces it with torch and gives the same vectors"
    elif (reason := UNTRACED.get(family)) is not None:
        advice = f"--exporter optimum does not help: {reason}. sentence-transformers runs the model as it is"
    else:
        advice = (
            "--exporter optimum was not tried with it: it works where Optimum knows the family, and refuses a graph that "
            "differs from transformers' model"
        )
    raise CheckpointError(
        f"{checkpoint.folder} has the model type {family!r}; Fletcher authors {', '.join(sorted(FAMILIES))}. "
        f"{explain_nearest(checkpoint.config, FAMILIES)}{advice}"
    )


def describe(checkpoint: Checkpoint) -> Architecture:
    """Return the architecture of a checkpoint's encoder; the caller adds the modules after it.

    Args:
        checkpoint: checkpoint to describe.

    Raises:
        CheckpointError: the family is not authored, or the checkpoint cannot be converted without guessing.
    """
    return FAMILIES[check_family(checkpoint)](checkpoint)
