"""Causal models in half precision on the target `cuda`: the operator `GroupQueryAttention`, here on the CPU provider."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from fletcher.convert.precision import Float
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.origin.tolerances import TOLERANCES

from ...targets.sessions import TargetSession, architecture_of, models_of
from ...targets.support.contrib_operators import spell_out
from ...targets.support.rounding import RoundingGraph
from ...verify.parity import MIXED, Parity, make_card
from .models import make_tiny

#: Models with a causal mask and windows, with norms of heads and without, with grouped heads and a bias.
MODELS = ("llama", "mistral", "qwen2", "qwen2_window", "qwen3", "qwen3_window")
#: The operator takes heads of a multiple of 16 elements.
CHANGES: dict[str, dict[str, int]] = {
    **{key: {"hidden_size": 64} for key in ("llama", "qwen2", "qwen2_window")},
    **{key: {"head_dim": 16} for key in ("mistral", "qwen3_window")},
}
OPERATOR = "GroupQueryAttention"


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_last_tokens_are_those_of_transformers(tmp_path: Path, name: str, precision: Float) -> None:
    tiny = make_tiny(name, **CHANGES.get(name, {}))
    card = make_card(tiny.save(tmp_path), tiny.hidden, tiny.longest, pooling=("lasttoken",))
    emissions, models = models_of(architecture_of(tmp_path, card), card, tmp_path, "cuda", precision)
    assert sum(node.op_type == OPERATOR for node in models[0].graph.node) == 3
    session = TargetSession(emissions, [RoundingGraph(spell_out(models[0]), tmp_path)], {})
    rows = Parity(tiny.model, session, tiny.tokens, tiny.vocabulary, tiny.longest).rows(
        [min(length, tiny.longest) for length in (*MIXED, tiny.longest)]
    )
    theirs = Parity(tiny.model, session, tiny.tokens, tiny.vocabulary, tiny.longest).huggingface(rows)[
        :, -tiny.hidden :
    ]
    ours = session.run(Encodings.from_lists(rows))
    cosines = np.sum(ours * theirs, 1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    assert TOLERANCES[precision].min_cosine <= cosines.min() < 1 - 1e-8, cosines.min()


#: Changes with which Fletcher's operators take every part: heads, and rows of gates, of a multiple of their elements.
WHOLE = {"intermediate_size": 32}


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_kernels_give_the_last_tokens_of_transformers(tmp_path: Path, name: str, precision: Float) -> None:
    tiny = make_tiny(name, **CHANGES.get(name, {}), **WHOLE)
    card = make_card(tiny.save(tmp_path), tiny.hidden, tiny.longest, pooling=("lasttoken",))
    architecture = architecture_of(tmp_path, card)
    emissions, models = models_of(architecture, card, tmp_path, "cuda", precision, kernels=True)
    operators = Counter(node.op_type for node in models[0].graph.node)
    assert emissions[0].gaps == ()
    assert [operators[kind] for kind in ("HeadNormRotary", "Attention", "GatedActivation", "SkipRmsNorm")] == [
        3,
        3,
        3,
        7,
    ]
    assert not operators.keys() & {"RMSNormalization", "Sigmoid", "GroupQueryAttention"}
    session = TargetSession(emissions, [RoundingGraph(spell_out(models[0]), tmp_path)], {})
    parity = Parity(tiny.model, session, tiny.tokens, tiny.vocabulary, tiny.longest)
    rows = parity.rows([min(length, tiny.longest) for length in (*MIXED, tiny.longest)])
    theirs, ours = parity.huggingface(rows)[:, -tiny.hidden :], session.run(Encodings.from_lists(rows))
    cosines = np.sum(ours * theirs, 1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    assert TOLERANCES[precision].min_cosine <= cosines.min() < 1 - 1e-8, cosines.min()


@pytest.mark.parametrize(("precision", "count"), [("fp16", 0), ("bf16", 3)])
def test_only_bf16_holds_large_scores(tmp_path: Path, precision: Float, count: int) -> None:
    """A context that float16 cannot hold is computed in float32, for which the operator has no kernel."""
    tiny = make_tiny("qwen3")
    card = make_card(tiny.save(tmp_path), tiny.hidden, tiny.longest, pooling=("lasttoken",))
    islands = [f"layers.{layer}/attention/context" for layer in range(3)]
    _, models = models_of(architecture_of(tmp_path, card), card, tmp_path, "cuda", precision, islands)
    assert sum(node.op_type == OPERATOR for node in models[0].graph.node) == count


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_pooling_over_tokens_has_packed_rows(tmp_path: Path, pooling: str) -> None:
    tiny = make_tiny("qwen3")
    card = make_card(tiny.save(tmp_path), tiny.hidden, tiny.longest, pooling=(pooling,))
    _, models = models_of(architecture_of(tmp_path, card), card, tmp_path, "cuda", "bf16")
    assert not any(node.op_type == OPERATOR for node in models[0].graph.node)
