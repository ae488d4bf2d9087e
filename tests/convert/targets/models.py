"""Tiny models of every family and every variation of an architecture, with checkpoints, for the tests of every target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import pytest
import transformers

from ..families.decoders.both_directions import tiny_both
from ..families.decoders.lfm2_encoder import tiny_encoder
from ..families.decoders.models import CASES, QUICK, make_tiny
from ..families.restated import Restated, Static
from ..families.rotary.test_gte import New
from ..families.rotary.test_nomic_bert import EXPERTS, Nomic
from ..families.special_attention.test_convbert import BASE as CONVBERT
from ..families.special_attention.test_deberta_v2 import V3 as DEBERTA
from ..families.test_jina_bert import Jina
from ..families.tiny import DISTILBERT_SIZES, POSITIONS, SIZES
from ..verify.parity import BERT_TOKENS, ROBERTA_TOKENS, SpecialTokens, randomize
from .tiny import Tiny

__all__ = ["MODELS", "NAMES", "REFUSED", "SLOW", "Tiny", "bert_like", "cases", "roberta_like", "shared"]

LONGEST = 24
T5_TOKENS = SpecialTokens(("<pad>", "</s>", "<unk>"), start=1, end=1, pad=0)


def _transformers(family: str, name: str, sizes: Mapping[str, Any], tokens: SpecialTokens, longest: int) -> Tiny:
    config = getattr(transformers, f"{name}Config")(**sizes)
    model = randomize(getattr(transformers, f"{name}Model")(config))
    return Tiny(family, model, longest, tokens, config.vocab_size, config.hidden_size)


def bert_like(family: str, name: str, **sizes: Any) -> Callable[[], Tiny]:
    return lambda: _transformers(family, name, SIZES | sizes, BERT_TOKENS, POSITIONS)


def roberta_like(family: str, name: str, **sizes: Any) -> Callable[[], Tiny]:
    return lambda: _transformers(family, name, SIZES | sizes, ROBERTA_TOKENS, POSITIONS - 2)


def _modernbert() -> Tiny:
    sizes = {
        "vocab_size": 60,
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 20,
        "max_position_embeddings": LONGEST,
        "local_attention": 6,
        "attn_implementation": "eager",
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "cls_token_id": 2,
        "sep_token_id": 3,
    }
    return _transformers("modernbert", "ModernBert", sizes, BERT_TOKENS, LONGEST)


def _t5(family: str, name: str, **settings: Any) -> Callable[[], Tiny]:
    """Return a function that makes the encoder of a T5 whose heads are wider than its hidden size allows."""

    def make() -> Tiny:
        sizes = {"vocab_size": 60, "d_model": 32, "d_kv": 12, "num_heads": 4, "num_layers": 3, "d_ff": 40}
        config = getattr(transformers, f"{name}Config")(**sizes, relative_attention_max_distance=16, **settings)
        model = randomize(getattr(transformers, f"{name}EncoderModel")(config), std=0.1)
        return Tiny(family, model, LONGEST, T5_TOKENS, 60, 32)

    return make


def _restated(family: str, make: Callable[[], Restated], vocabulary: int, hidden: int) -> Callable[[], Tiny]:
    return lambda: Tiny(family, make(), LONGEST, BERT_TOKENS, vocabulary, hidden)


#: Models of families whose paths through the emitters are those of other models; their tests run with `-m slow`.
SLOW = (
    *("eurobert", "gemma", "lfm2_bidirectional", "llama_bidirec", "ministral3", "ministral3_bidirec"),
    *("mistral", "qwen2"),
)

#: Models that a target refuses by name.
REFUSED: Mapping[str, tuple[str, ...]] = {"coreml": ("convbert",)}

#: By name: all of `families.FAMILIES`, and one model for each other path through an emitter.
MODELS: Mapping[str, Callable[[], Tiny]] = {
    "albert": bert_like("albert", "Albert", embedding_size=16),
    "bert": bert_like("bert", "Bert"),
    "big_bird": bert_like("big_bird", "BigBird", attention_type="original_full", use_bias=False),
    "bert_tanh_gelu": bert_like("bert", "Bert", hidden_act="gelu_new"),
    "bert_quick_gelu": bert_like("bert", "Bert", hidden_act="quick_gelu"),
    "camembert": roberta_like("camembert", "Camembert", type_vocab_size=1),
    "convbert": bert_like("convbert", "ConvBert", **CONVBERT),
    "deberta-v2": bert_like("deberta-v2", "DebertaV2", **DEBERTA),
    "distilbert": lambda: _transformers("distilbert", "DistilBert", DISTILBERT_SIZES, BERT_TOKENS, POSITIONS),
    **{name: partial(make_tiny, name) for name in (*QUICK, *SLOW) if name in CASES},
    "electra": bert_like("electra", "Electra", embedding_size=16),
    "gte": _restated("new", lambda: New(rope_scaling={"type": "ntk", "factor": 2.0}), 60, 32),
    "jina_embeddings_v3": lambda: _transformers(
        "jina_embeddings_v3", "JinaEmbeddingsV3", SIZES, ROBERTA_TOKENS, POSITIONS
    ),
    "jina_bert": _restated("jina_bert", Jina, 60, 48),
    "jina_bert_normed": _restated("jina_bert", lambda: Jina(6, normed=True, feed_forward_type="reglu"), 60, 48),
    "lfm2_bidirectional": lambda: tiny_encoder("lfm2_bidirectional"),
    "llama_bidirec": lambda: tiny_both("llama_bidirec"),
    "longformer": roberta_like("longformer", "Longformer", attention_window=6, type_vocab_size=1),
    "ministral3_bidirec": lambda: tiny_both("ministral3_bidirec"),
    "modernbert": _modernbert,
    "mpnet": roberta_like("mpnet", "MPNet"),
    "nomic_bert": _restated("nomic_bert", Nomic, 64, 32),
    "nomic_bert_interleaved": _restated(
        "nomic_bert", lambda: Nomic(rotary_emb_fraction=0.5, rotary_emb_interleaved=True, rotary_emb_base=50), 64, 32
    ),
    "nomic_bert_half": _restated("nomic_bert", lambda: Nomic(rotary_emb_fraction=0.5), 64, 32),
    "nomic_bert_experts": _restated("nomic_bert", lambda: Nomic(**EXPERTS), 64, 32),
    "roberta": roberta_like("roberta", "Roberta", type_vocab_size=1),
    "mt5": _t5("mt5", "MT5", feed_forward_proj="gated-gelu"),
    "static_embedding": _restated("static_embedding", Static, 60, 24),
    "t5": _t5("t5", "T5"),
    "xlm-roberta": roberta_like("xlm-roberta", "XLMRoberta", type_vocab_size=1),
    "xlm-roberta-xl": roberta_like("xlm-roberta-xl", "XLMRobertaXL", type_vocab_size=1),
}


@cache
def shared(name: str) -> Tiny:
    """Return the model of a name. All tests of a process share it: they must not change it."""
    return MODELS[name]()


#: Names of the models, for parametrized tests.
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in MODELS]


def cases(*targets: str) -> list[Any]:
    """Return each target with the names of the models that it does not refuse, for parametrized tests."""
    return [
        pytest.param(target, name, marks=pytest.mark.slow) if name in SLOW else (target, name)
        for target in targets
        for name in MODELS
        if name not in REFUSED.get(target, ())
    ]
