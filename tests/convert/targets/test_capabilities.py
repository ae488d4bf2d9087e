"""Architectures that a target cannot emit are refused by name; every arrangement of norms has its nodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fletcher.convert.architecture import Architecture, Attention, Block, FeedForward, Heads, Layer, Window
from fletcher.convert.checkpoint.tensors import Linear, Norm, Weight
from fletcher.convert.targets.cpu.emit import emit_cpu
from fletcher.convert.targets.emit import CAPABILITIES, choose, emit
from fletcher.convert.targets.shared.capabilities import Capabilities, check_capabilities
from fletcher.runtime.errors import InputError

from ..verify.parity import make_card
from .models import MODELS
from .sessions import architecture_of

WIDTH = 48


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Architecture:
    folder = tmp_path_factory.mktemp("bert")
    tiny = MODELS["bert"]()
    return architecture_of(tiny.save(folder), make_card(folder, tiny.hidden, tiny.longest))


def weight(name: str, *shape: int) -> Weight:
    return Weight(name, shape, lambda: np.ones(shape, np.float32))


def norm(name: str) -> Norm:
    return Norm(weight(f"{name}.weight", WIDTH), weight(f"{name}.bias", WIDTH), 1e-5)


def with_attention(bert: Architecture, change: Callable[[Attention], Attention]) -> Architecture:
    first, *others = bert.layers
    attend, widen = first.blocks
    assert isinstance(attend.body, Attention)
    layer = replace(first, blocks=(replace(attend, body=change(attend.body)), widen))
    return replace(bert, layers=(layer, *others))


def grouped(attention: Attention) -> Attention:
    key, value = (Linear(weight(f"{name}.weight", WIDTH, 24), weight(f"{name}.bias", 24)) for name in ("key", "value"))
    return replace(attention, key=key, value=value, num_kv_heads=2)


CASES: dict[str, tuple[Callable[[Architecture], Architecture], str]] = {
    "causal": (lambda bert: with_attention(bert, lambda part: replace(part, mask="causal")), "with a causal mask"),
    "one-sided": (
        lambda bert: with_attention(bert, lambda part: replace(part, mask=Window(8, 0))),
        "with a one-sided window mask",
    ),
    "grouped": (lambda bert: with_attention(bert, grouped), "fewer heads of keys than of queries"),
    "query norm": (
        lambda bert: with_attention(bert, lambda part: replace(part, query_norm=replace(norm("q"), kind="rms_norm"))),
        "norms of the kind rms_norm",
    ),
    "final norm": (
        lambda bert: replace(bert, final_norm=replace(norm("last"), kind="rms_norm")),
        "norms of the kind rms_norm",
    ),
}


#: A target with nodes for BERT alone.
PLAIN = Capabilities(norms=frozenset({"layer_norm"}), masks=frozenset({"full", "window"}))


@pytest.mark.parametrize("case", CASES)
def test_architectures_that_a_target_cannot_emit_are_refused_by_name(bert: Architecture, case: str) -> None:
    change, expected = CASES[case]
    check_capabilities("plain", PLAIN, bert)
    with pytest.raises(InputError, match=f"the target plain cannot emit .*{expected}.* the family bert needs"):
        check_capabilities("plain", PLAIN, change(bert))


@pytest.mark.parametrize("target", CAPABILITIES)
@pytest.mark.parametrize("case", CASES)
def test_every_target_has_nodes_for_all_of_them(bert: Architecture, target: str, case: str) -> None:
    assert emit(target, CASES[case][0](bert), WIDTH * 4, 40, choose(target, "fp32"))


def test_coreml_refuses_a_weight_that_is_too_wide(bert: Architecture) -> None:
    attend, widen = bert.layers[0].blocks
    up, down = Linear(weight("wide.up", WIDTH, 16_385), None), Linear(weight("wide.down", 16_385, WIDTH), None)
    wide = Layer("wide", (attend, replace(widen, body=FeedForward(up, down, "relu"))))
    with pytest.raises(InputError, match=r"coreml has no dimension above 16,384, and the weight wide.up"):
        emit("coreml", replace(bert, layers=(wide,)), WIDTH * 4, 40, choose("coreml", "fp32"))


def test_widths_that_contradict_the_heads_are_an_error(bert: Architecture) -> None:
    attention = bert.attentions[0]
    assert (attention.query_heads, attention.key_heads) == (Heads(4, 12), Heads(4, 12))
    with pytest.raises(ValueError, match=r"have the widths \(48, 48, 48, 48\), the heads imply \(64, 64, 64, 64\)"):
        replace(attention, head_size=16)


def test_norms_before_and_after_a_body_are_emitted_around_it(bert: Architecture) -> None:
    """Source: Gemma's norms, x + after(body(before(x)))."""
    body = bert.feed_forwards[0]
    block = Block(body, norm_before=norm("before"), norm_after=norm("after"))
    nodes = nodes_of(replace(bert, layers=(Layer("sandwich", (block,)),)))
    name, hidden = "sandwich/feed_forward", "embeddings/norm"
    assert nodes[f"{name}/norm"] == ("LayerNormalization", [hidden, "before.weight", "before.bias"])
    assert nodes[f"{name}/up/product"][1][0] == f"{name}/norm"
    assert nodes[f"{name}/norm_after"] == ("LayerNormalization", [f"{name}/down", "after.weight", "after.bias"])
    assert nodes[f"{name}/residual"] == ("Add", [f"{name}/norm_after", hidden])


def test_a_block_around_a_block_adds_its_input_a_second_time(bert: Architecture) -> None:
    """Source: JinaBERT, norm(x + norm(x + body(x)))."""
    inner = Block(bert.feed_forwards[0], norm_sum=norm("inner"))
    nodes = nodes_of(replace(bert, layers=(Layer("twice", (Block(inner, norm_sum=norm("outer")),)),)))
    name, hidden = "twice/feed_forward", "embeddings/norm"
    assert nodes[f"{name}/residual"] == ("Add", [f"{name}/down", hidden])
    assert nodes[f"{name}/norm"] == ("LayerNormalization", [f"{name}/residual", "inner.weight", "inner.bias"])
    assert nodes[f"{name}/residual_again"] == ("Add", [f"{name}/norm", hidden])
    assert nodes[f"{name}/norm_again"][1] == [f"{name}/residual_again", "outer.weight", "outer.bias"]


def test_norms_are_listed_once_each_in_the_order_of_computation(bert: Architecture) -> None:
    linear = Linear(weight("up", WIDTH, WIDTH), None)
    inner = Block(FeedForward(linear, linear, "relu"), norm("1"))
    outer = Block(inner, norm_after=norm("2"), norm_sum=norm("3"))
    names = [part.weight.name for part in outer.norms]
    assert names == ["1.weight", "2.weight", "3.weight"]
    assert len(list(bert.norms)) == 1 + 2 * len(bert.layers)


def nodes_of(architecture: Architecture) -> dict[str, tuple[str, list[str]]]:
    """Return operator and inputs of each node of the `cpu` graph, by name."""
    graph = emit_cpu(architecture, WIDTH * 4)
    return {node.name: (node.op_type, list(node.input)) for node in graph._nodes}


def test_convolutions_are_refused_by_name(tmp_path: Path) -> None:
    tiny = MODELS["convbert"]()
    architecture = architecture_of(tiny.save(tmp_path), make_card(tmp_path, tiny.hidden, tiny.longest))
    with pytest.raises(InputError, match=r"coreml cannot emit attention with convolutions, .* convbert"):
        emit("coreml", architecture, tiny.hidden, tiny.longest, choose("coreml", "fp32"))
