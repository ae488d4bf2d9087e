"""Descriptions of graphs, of which identifiers of spaces are made: each setting of each family is in them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fletcher.convert.checkpoint.checkpoint import Checkpoint
from fletcher.convert.export.content import describe_graph
from fletcher.convert.families import describe

from ..families.test_any_config import MODELS
from ..verify.parity import save_checkpoint

SIZES: Mapping[str, Any] = {
    "vocab_size": 30,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
    "hidden_act": "gelu",
}

#: Settings whose change leaves all tensors as they are and changes the vectors.
CHANGES: Mapping[str, Mapping[str, Any]] = {
    "albert": {"hidden_act": "relu", "num_attention_heads": 2},
    "camembert": {"hidden_act": "relu"},
    "deberta-v2": {"hidden_act": "relu", "num_attention_heads": 2},
    "distilbert": {"hidden_act": "relu"},
    "electra": {"hidden_act": "relu"},
    "gte": {"hidden_act": "relu"},
    "jina_embeddings_v3": {"hidden_act": "relu", "num_attention_heads": 2},
    "modernbert": {
        "hidden_act": "relu",
        "local_attention": 6,
        "global_attn_every_n_layers": 2,
        "num_attention_heads": 2,
    },
    "mpnet": {"hidden_act": "relu"},
    "nomic_bert": {"hidden_act": "relu"},
    "roberta": {"hidden_act": "relu", "num_attention_heads": 2},
    "xlm-roberta": {"hidden_act": "relu"},
}


def description(family: str, folder: Path, **changes: Any) -> Any:
    """Return the description of a small model, as JSON holds it."""
    make, tokens, _ = MODELS[family]
    save_checkpoint(make({**SIZES, **changes}), folder, tokens)
    return json.loads(json.dumps(describe_graph(describe(Checkpoint.open(folder)))))


def test_every_family_has_a_case() -> None:
    assert set(CHANGES) == set(MODELS)


@pytest.mark.parametrize(("family", "setting"), [(family, one) for family, some in CHANGES.items() for one in some])
def test_a_setting_that_changes_the_computation_changes_the_description(
    family: str, setting: str, tmp_path: Path
) -> None:
    usual = description(family, tmp_path / "usual")
    assert description(family, tmp_path / "again") == usual  # the weights are others
    assert description(family, tmp_path / "changed", **{setting: CHANGES[family][setting]}) != usual


def test_a_description_names_no_node_and_no_family(tmp_path: Path) -> None:
    text = json.dumps(description("modernbert", tmp_path))
    assert '"frequencies"' in text and '"scale"' in text and '"epsilon"' in text
    assert "layers." not in text and "modernbert" not in text and "name" not in text
