"""The nearest family in the message for a model type that is not authored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import CONFIG_MAPPING

from fletcher.convert.checkpoint.checkpoint import Checkpoint
from fletcher.convert.families import FAMILIES, TRACED, UNTRACED, check_family
from fletcher.convert.families.settings.nearest import NEAREST
from fletcher.runtime.errors import CheckpointError

BERT = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 8}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "deberta"}, r"nearest family is deberta-v2: .* no ranges\. Use --exporter optimum"),
        ({"model_type": "longt5"}, "nearest family is t5: its attention is local"),
        ({"model_type": "new-thing", **BERT}, "nearest family is bert: this is judged by the keys"),
        ({"model_type": "new-thing", "n_embd": 8, "rotary_emb_base": 10}, "nearest family is nomic_bert"),
        ({"model_type": "new-thing"}, "'new-thing'; Fletcher authors"),
        ({"model_type": "gemma4_text"}, "nearest family is embedding_gemma2_text: it attends to the past alone"),
        (
            {"model_type": "new-vl", "text_config": {"model_type": "qwen3_vl_text"}},
            "part for texts, 'qwen3_vl_text', is not authored either. The nearest family is qwen3: the same layers",
        ),
        (
            {"model_type": "new-vl", "vlm_config": {"text_config": {"model_type": "modernbert"}}},
            "part for texts is of the family modernbert, which Fletcher authors where it is a checkpoint of its own",
        ),
        (
            {"model_type": "new-moe", "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "num_local_experts": 8},
            "nearest family is qwen3: its layers have experts; this is judged by the keys",
        ),
        (
            {"model_type": "new-moe", **BERT, "layer_types": ["linear_attention", "full_attention"]},
            "nearest family is bert: it has layers of the kind linear_attention; this is judged",
        ),
    ],
)
def test_the_nearest_family_is_named(config: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        check_family(Checkpoint(Path("folder"), config, {}))
    assert ("nearest" in str(caught.value)) == ("nearest" in message)


def test_each_type_is_one_of_transformers() -> None:
    older = {"ernie_m", "nezha"}  # transformers has had them
    assert set(NEAREST) - older <= set(CONFIG_MAPPING.keys())


def test_no_authored_family_has_a_nearest_one() -> None:
    assert not set(NEAREST) & set(FAMILIES)
    assert all(difference and not difference.endswith(".") for _, difference in NEAREST.values())
    assert {"deberta", "longt5", "xlnet"} <= set(NEAREST) & (TRACED | set(UNTRACED))
