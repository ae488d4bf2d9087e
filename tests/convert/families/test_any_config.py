"""Random sizes and switches of each family's configuration: the written graph agrees with transformers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fletcher.convert.families import FAMILIES

from ..verify.parity import BERT_TOKENS, ROBERTA_TOKENS, Parity, SpecialTokens, randomize
from .decoders.models import CASES, make_tiny
from .restated import Restated
from .rotary.test_gte import New
from .rotary.test_nomic_bert import Nomic
from .test_jina_bert import Jina

pytestmark = pytest.mark.heavy  # by the seconds that it computes

#: Number of examples of each family; those of BERT are in test_bert.py.
EXAMPLES = 4

_IDS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}


def _of(name: str, renamed: Mapping[str, str] = {}, **more: Any) -> Callable[[Mapping[str, Any]], Any]:
    """Return a function that makes transformers' model of a family from sizes under BERT's names."""

    def make(sizes: Mapping[str, Any]) -> Any:
        settings = {renamed.get(key, key): value for key, value in sizes.items()}
        config = getattr(transformers, f"{name}Config")(**{**more, **settings})
        return randomize(getattr(transformers, f"{name}Model")(config))

    return make


_DISTILBERT = {
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
    "hidden_act": "activation",
}
_MODERNBERT = {"hidden_act": "hidden_activation"}

#: By family: function that makes the model, special tokens, and settings that vary besides the sizes.
MODELS: Mapping[str, tuple[Callable[[Mapping[str, Any]], Any], SpecialTokens, Mapping[str, Any]]] = {
    "albert": (_of("Albert"), BERT_TOKENS, {"embedding_size": [8, 24], "num_hidden_groups": [1]}),
    "camembert": (_of("Camembert", pad_token_id=1), ROBERTA_TOKENS, {"type_vocab_size": [1, 2]}),
    "deberta-v2": (
        _of("DebertaV2", relative_attention=True, pos_att_type=["c2p"], pad_token_id=0),
        BERT_TOKENS,
        {
            "pos_att_type": [["c2p"], ["p2c", "c2p"], "c2p|p2c"],
            "share_att_key": [False, True],
            "position_buckets": [-1, 4, 8, 13],
            "norm_rel_ebd": ["none", "layer_norm"],
            "position_biased_input": [False, True],
            "type_vocab_size": [0, 2],
        },
    ),
    "distilbert": (_of("DistilBert", _DISTILBERT), BERT_TOKENS, {"sinusoidal_pos_embds": [False, True]}),
    "electra": (_of("Electra"), BERT_TOKENS, {"embedding_size": [8, 24]}),
    "gte": (_of("Gte"), BERT_TOKENS, {}),
    "jina_embeddings_v3": (_of("JinaEmbeddingsV3", pad_token_id=1), ROBERTA_TOKENS, {"type_vocab_size": [1, 2]}),
    "modernbert": (
        _of("ModernBert", _MODERNBERT, **_IDS),
        BERT_TOKENS,
        {
            "local_attention": [2, 6, 64],
            "global_attn_every_n_layers": [1, 2, 3],
            "attention_bias": [False, True],
            "mlp_bias": [False, True],
            "norm_bias": [False, True],
        },
    ),
    "mpnet": (_of("MPNet", pad_token_id=1), ROBERTA_TOKENS, {}),
    "nomic_bert": (_of("NomicBert"), BERT_TOKENS, {}),
    "roberta": (_of("Roberta", pad_token_id=1), ROBERTA_TOKENS, {"type_vocab_size": [1, 2]}),
    "xlm-roberta": (_of("XLMRoberta", pad_token_id=1), ROBERTA_TOKENS, {"type_vocab_size": [1, 2]}),
}

#: Originals that transformers does not implement, or not with every option: sizes are fixed, switches vary.
RESTATED: Mapping[str, tuple[Callable[..., Restated], int, int, Mapping[str, Any]]] = {
    "jina_bert": (
        Jina,
        48,
        60,
        {
            "heads": [6, 8],
            "normed": [False, True],
            "feed_forward_type": ["geglu", "reglu"],
            "layer_norm_eps": [1e-12, 1e-3],
        },
    ),
    "new": (New, 32, 60, {"rope_theta": [50.0, 10_000.0], "layer_norm_eps": [1e-12, 1e-3]}),
    "nomic_bert original": (
        Nomic,
        32,
        64,
        {
            "rotary_emb_fraction": [0.5, 1.0],
            "rotary_emb_interleaved": [False, True],
            "rotary_emb_base": [50, 1000],
            "layer_norm_epsilon": [1e-12, 1e-3],
        },
    ),
}


def test_every_family_has_a_model_here_or_in_a_test_of_its_own() -> None:
    decoders = {make_tiny(name).family for name in CASES}
    of_their_own = {
        "bert",
        "big_bird",
        "convbert",
        "lfm2_bidirectional",
        "llama_bidirec",
        "longformer",
        "ministral3_bidirec",
        "jina_bert",
        "mt5",
        "new",
        "static_embedding",
        "t5",
        "xlm-roberta-xl",
    }
    assert {*MODELS} | of_their_own | decoders == set(FAMILIES)


@pytest.mark.parametrize("family", MODELS)
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_size(family: str, data: st.DataObject) -> None:
    make, tokens, options = MODELS[family]
    heads, half = data.draw(st.integers(1, 4), "heads"), data.draw(st.integers(2, 8), "half a head")
    sizes: dict[str, Any] = {
        "vocab_size": data.draw(st.integers(20, 60), "vocabulary"),
        "hidden_size": 2 * heads * half,
        "num_attention_heads": heads,
        "num_hidden_layers": data.draw(st.integers(1, 3), "layers"),
        "intermediate_size": data.draw(st.integers(1, 40), "inner"),
        "max_position_embeddings": data.draw(st.integers(12, 40), "positions"),
        "hidden_act": data.draw(st.sampled_from(["gelu", "relu", "silu", "gelu_new"]), "activation"),
    }
    sizes |= {key: data.draw(st.sampled_from(values), key) for key, values in options.items()}
    longest = sizes["max_position_embeddings"] - (2 if tokens is ROBERTA_TOKENS else 0)
    with tempfile.TemporaryDirectory() as folder:
        parity = Parity.of(make(sizes), Path(folder), longest, tokens)
        parity.check_batches()
        parity.check_company()


@pytest.mark.parametrize("name", RESTATED)
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_switch_of_an_original(name: str, data: st.DataObject) -> None:
    make, hidden, vocabulary, options = RESTATED[name]
    drawn = {key: data.draw(st.sampled_from(values), key) for key, values in options.items()}
    with tempfile.TemporaryDirectory() as folder:
        make(**drawn).parity(Path(folder), hidden, vocabulary).check()
