"""Values that the probe reads from a graph: scores compared with numpy, and points found by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from fletcher.convert.layers.batches import plan_batches
from fletcher.convert.layers.compare import compare_values, tolerance_of
from fletcher.convert.layers.points import GraphPoint, Kind, find_points, title_of
from fletcher.convert.layers.scores import copies_of, shown_by, split_scores
from fletcher.convert.layers.tally import Tally
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.errors import InputError
from fletcher.runtime.providers.inspection import InspectionSession

HEADS, SIZE, SCALE = 2, 4, 0.3
LENGTHS = np.array([5, 2, 1], np.int64)
LONGEST = 5
Array = NDArray[Any]


def _random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def _heads(rows: Array) -> Array:
    return rows.reshape(3, LONGEST, HEADS, SIZE).transpose(0, 2, 1, 3)


@pytest.mark.parametrize("bias", [None, "learned", "window", "boolean"])
def test_scores_of_the_copies_agree_with_numpy_and_with_the_context_of_the_node(bias: str | None) -> None:
    """The softmax of mode 2 equals mode 3, and mode 3 times the values equals the output of the served node."""
    feeds: dict[str, Array] = {
        **{name: _random(3, LONGEST, HEADS * SIZE, seed=seed) for seed, name in enumerate(("q", "k", "v"))},
        "lengths": LENGTHS,
    }
    steps = np.arange(LONGEST)
    near = np.abs(steps - steps[:, None]) <= 1
    biases: dict[str, Array] = {
        "learned": _random(1, HEADS, LONGEST, LONGEST, seed=9),
        "window": np.where(near, np.float32(0), np.float32(-1e30))[None, None],
        "boolean": np.broadcast_to(near, (3, 1, LONGEST, LONGEST)).copy(),
    }
    inputs = ["q", "k", "v", "", "", "", "lengths"]
    if bias is not None:
        feeds["bias"], inputs[3] = biases[bias], "bias"
    heads: dict[str, Any] = {"q_num_heads": HEADS, "kv_num_heads": HEADS}
    node = helper.make_node("Attention", inputs, ["context"], name="attend", scale=SCALE, **heads)
    shown, copies = shown_by(node), copies_of(node)
    assert shown is not None
    values = _run([node, *copies], feeds, [*shown.values, "context", *(copy.output[0] for copy in copies[1:])])

    query, key, value = (_heads(feeds[name]) for name in ("q", "k", "v"))
    raw = query @ key.transpose(0, 1, 3, 2)
    added = biases["window"] if bias == "boolean" else biases.get(bias or "", np.zeros((1, 1, 1, 1), np.float32))
    visible = np.broadcast_to((steps < LENGTHS[:, None])[:, None, None], raw.shape) & (added > -1e3)
    scores = np.where(visible, raw * SCALE + added, -np.inf)
    # Rows of padding attend to no token in a window; their results are not used.
    with np.errstate(invalid="ignore"):
        powers = np.exp(scores - scores.max(-1, keepdims=True))
        softmax = powers / powers.sum(-1, keepdims=True)
    assert shown.raw is not None
    np.testing.assert_allclose(values[shown.raw], raw, rtol=0, atol=2e-6)
    np.testing.assert_allclose(values[shown.scaled], raw * SCALE, rtol=0, atol=1e-6)
    batch = Encodings.from_lists([[0] * length for length in LENGTHS])
    split = split_scores(shown, values, batch)
    context = (softmax @ value).transpose(0, 2, 1, 3).reshape(3, LONGEST, -1)
    for row, size in enumerate(LENGTHS.tolist()):
        inside = np.s_[row, :, :size, :size]
        np.testing.assert_array_equal(split["attention/mask"][row], visible[row, :, :size])
        np.testing.assert_allclose(
            split["attention/biased_scores"][row], np.where(visible, scores, 0)[inside], rtol=0, atol=1e-6
        )
        np.testing.assert_allclose(split["attention/softmax"][row], softmax[row, :, :size], rtol=0, atol=1e-6)
        np.testing.assert_allclose(split["attention/softmax_sums"][row], 1.0, rtol=0, atol=1e-6)
        np.testing.assert_allclose(values["context"][row, :size], context[row, :size], rtol=0, atol=1e-6)
        for copy in copies[1:]:  # the first node has another scale
            again = values[copy.output[0]][row, :size]
            np.testing.assert_allclose(again, values["context"][row, :size], rtol=0, atol=1e-6)


def _run(nodes: list[onnx.NodeProto], feeds: dict[str, Array], outputs: list[str]) -> dict[str, Array]:
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in feeds.items()
    ]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(nodes, "attention", inputs, infos)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11)
    with InspectionSession(model.SerializeToString(), Path(), "cpu") as session:
        return session.run(feeds, outputs)


def test_points_have_the_same_keys_in_every_family_and_the_order_of_the_graph() -> None:
    names = (
        "layout/valid",
        "embeddings/word",
        "embeddings/counts",
        "transformer.layer.0/attention/query",
        "transformer.layer.0/attention/query_rectangle",
        "transformer.layer.1/feed_forward/up",
        "modules.0/mean/weights",
        "modules.0/mean",
        "modules.1/normalized",
        "vectors",
    )
    nodes = [helper.make_node("Identity", ["x"], [name], name=f"node of {name}") for name in names]
    model = helper.make_model(helper.make_graph(nodes, "points", [], []))
    assert find_points(model) == [
        GraphPoint("embeddings/word", Kind.TOKENS, "node of embeddings/word", "embeddings/word"),
        GraphPoint("layers.0/attention/query", Kind.TOKENS, f"node of {names[3]}", names[3]),
        GraphPoint("layers.1/feed_forward/up", Kind.TOKENS, f"node of {names[5]}", names[5]),
        GraphPoint("modules.0", Kind.TEXTS, "node of modules.0/mean", "modules.0/mean"),
        GraphPoint("modules.1", Kind.TEXTS, "node of modules.1/normalized", "modules.1/normalized"),
    ]
    assert [title_of(point) for point in find_points(model)][1:4] == [
        "layer 0: query projection",
        "layer 1: up projection",
        "module 0: mean",
    ]


def test_attention_in_standard_operators_gives_all_points_but_raw_scores() -> None:
    node = helper.make_node("Softmax", ["x"], ["l.0/attention/weights"], name="l.0/attention/weights")
    model = helper.make_model(helper.make_graph([node], "points", [], []))
    assert [point.key.removeprefix("layers.0/attention/") for point in find_points(model)] == [
        "scaled_scores",
        "mask",
        "biased_scores",
        "softmax",
        "softmax_sums",
    ]


def test_relative_error_is_that_of_the_worst_row_relative_to_its_length_or_the_usual_one() -> None:
    theirs = np.array([[3.0, 4.0], [30.0, 40.0]], np.float32)
    ours = theirs + np.array([[0.0, 0.0], [3.0, 4.0]], np.float32)
    error = compare_values(ours, theirs)
    assert error.max_abs == 4.0
    assert error.relative == pytest.approx(5.0 / 50.0)
    # The error of the short row is relative to the usual length, the root of (25 + 2500) / 2.
    error = compare_values(theirs + np.array([[3.0, 4.0], [0.0, 0.0]], np.float32), theirs)
    assert error.relative == pytest.approx(5.0 / np.sqrt(1262.5))
    assert error.cosine == pytest.approx((6 * 3 + 8 * 4 + 2500) / np.sqrt((36 + 64 + 2500) * 2525))


@pytest.mark.parametrize("ours", [np.full((2, 2), np.nan), np.full((2, 2), np.inf), np.zeros((2, 1)), np.zeros((3, 2))])
def test_values_that_are_not_finite_or_of_another_shape_have_an_infinite_error(ours: Array) -> None:
    error = compare_values(ours.astype(np.float32), np.zeros((2, 2), np.float32))
    assert (error.relative, error.cosine) == (np.inf, -1.0)


def test_attention_weights_on_padding_count_as_errors() -> None:
    alone, in_a_batch = np.array([[0.5, 0.5]], np.float32), np.array([[0.5, 0.5, 0.0]], np.float32)
    assert compare_values(in_a_batch, alone).relative == 0
    leaking = compare_values(np.array([[0.5, 0.4, 0.1]], np.float32), alone)
    assert leaking.relative == pytest.approx(np.sqrt(0.02) / np.sqrt(0.5))


def test_tolerances_grow_with_depth_and_with_the_roundoff_of_the_precision() -> None:
    first, deep = (tolerance_of("fp32", "layers.0/attention/query", depth) for depth in (0, 11))
    assert 4e-6 < first < 6e-6 < deep < 2e-5
    assert tolerance_of("fp16", "layers.0/attention/query", 0) == pytest.approx(first * 2**13 / 4)
    with pytest.raises(InputError, match="int8 is not compared"):
        tolerance_of("int8", "layers.0/attention/query", 0)


def test_a_point_that_one_side_lacks_is_reported_as_missing_in_order() -> None:
    points = [GraphPoint(key, Kind.TOKENS, f"node {key}", key) for key in ("embeddings/word", "embeddings/norm")]
    one = [np.ones((2, 3), np.float32)]
    tally = Tally(points)
    expected = {"embeddings/word": one, "embeddings/position": one}
    tally.add({"embeddings/word": one, "embeddings/norm": one}, expected, [2])
    results = [(result.key, result.verdict, result.note) for result in tally.results(lambda key: 1e-6)]
    assert results == [
        ("embeddings/word", "passed", ""),
        ("embeddings/position", "missing", "the graph does not compute it"),
        ("embeddings/norm", "missing", "the reference does not compute it"),
    ]
    silent = Tally(points[:1], {"embeddings/position"})
    silent.add({"embeddings/word": one}, expected, [2])
    assert [result.key for result in silent.results(lambda key: 1e-6)] == ["embeddings/word"]


def test_batches_have_several_sizes_and_lengths_and_fit_a_fixed_shape() -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    tokenizer = Tokenizer(
        WordLevel({"[UNK]": 0, **{f"w{index}": index + 1 for index in range(500)}}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = Whitespace()
    batches = plan_batches(tokenizer, 128, ["w1 w2 w3"] * 9)
    lengths = [[len(row) for row in batch] for batch in batches]
    assert [len(batch) for batch in lengths] == [1, 1, 2, 3, 7, 7, 2]
    assert lengths[0] == [1] and lengths[1] == [128] and len(set(lengths[4])) == 7
    assert {max(row) for batch in batches for row in batch} >= {500}  # the ids include the last one of the vocabulary
    fixed = plan_batches(tokenizer, 128, [], (1, 32))
    assert all(len(batch) == 1 and len(batch[0]) <= 32 for batch in fixed)
