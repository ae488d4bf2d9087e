"""Rows behind the last layer's attention: those of the pooled tokens alone, and transformers' vectors from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors import safe_open

from fletcher.convert.architecture import (
    Architecture,
    Decoder,
    Dense,
    LayerAverage,
    Module,
    Normalize,
    Pooling,
    Saturation,
    TokenOutput,
)
from fletcher.convert.checkpoint.tensors import Linear, constant
from fletcher.convert.precision import Float
from fletcher.convert.targets.emit import CAPABILITIES
from fletcher.model_zoo.card import ModelCard, PoolingMode
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.providers.mlas.graph import CpuGraph
from fletcher.runtime.session.feeds import make_feeds

from ...verify.parity import make_card
from ..models import MODELS, REFUSED, shared
from ..sessions import architecture_of, load_target, models_of
from ..support.contrib_operators import spell_out

TARGETS = tuple(CAPABILITIES)
MODES: tuple[PoolingMode, ...] = ("cls", "lasttoken")

#: One model for each kind of attention and of what follows it: biases, a window, blocks, distances, convolutions beside
#: heads, a second residual, experts, grouped heads, sandwich norms, a gate by the embeddings, a gated convolution, T5's bias.
KINDS = (
    *("bert", "modernbert", "longformer", "deberta-v2", "convbert", "jina_bert", "jina_bert_normed", "t5"),
    *("nomic_bert_experts", "qwen3", "gemma3_text", "embedding_gemma2", "lfm2"),
)

#: Every model on every target that emits it.
CASES = [
    pytest.param(target, name, marks=() if name in KINDS else pytest.mark.slow)
    for target in TARGETS
    for name in MODELS
    if name not in REFUSED.get(target, ())
]

#: Tokens of the texts whose rows are counted: 4 texts, 15 tokens, the longest 9.
LENGTHS = (3, 1, 9, 2)

#: Beginnings of the names of a layer's products before its context.
BEFORE = tuple(f"attention/{part}" for part in ("qkv", "query", "key", "value", "convolution", "first", "scores"))


def _shapes(
    architecture: Architecture, card: ModelCard, folder: Path, target: str, precision: Float = "fp32"
) -> Mapping[str, tuple[int, ...]]:
    """Return the shape of each product with a weight, by its node's name, for texts of `LENGTHS`; for coreml, of 9 tokens."""
    (emission, *_), (model, *_) = models_of(architecture, card, folder, target, precision)
    spelled = spell_out(model)
    weights = {tensor.name for tensor in model.graph.initializer}
    products = [node.output[0] for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in weights]
    spelled.graph.output.extend(onnx.helper.make_empty_tensor_value_info(value) for value in products)
    with safe_open(folder / f"{target}.{precision}.safetensors", framework="numpy") as file:
        tables = {name: file.get_tensor(tensor) for name, tensor in emission.feeds.tables.items()}
    lengths = LENGTHS if emission.feeds.shape is None else (9,)
    batch = Encodings.from_lists([list(range(5, 5 + length)) for length in lengths])
    feeds = make_feeds(tuple(emission.graph.inputs), emission.feeds, batch, tables)
    values = CpuGraph(spelled.SerializeToString(), folder).run(feeds, products)
    return {name: value.shape[:-1] for name, value in zip(products, values, strict=True)}


def _rows_of_last_layer(
    architecture: Architecture, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[set[tuple[int, ...]], set[tuple[int, ...]]]:
    """Return the axes before the last one of the last layer's products: up to its context, and behind it."""
    prefix = f"{architecture.layers[-1].name}/"
    inside = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
    before = {shape for name, shape in inside.items() if name.startswith((*BEFORE, "convolution/input"))}
    behind = {shape for name, shape in inside.items() if not name.startswith((*BEFORE, "convolution/input"))}
    assert before
    assert behind
    return before, behind


def _tokens(target: str, *, packed: bool | None = None) -> tuple[int, ...]:
    """Return the axes of values with a row for each token."""
    if target == "coreml":
        return (1, 24)  # of the longest text of the tiny models, which is the shortest bucket
    is_packed = target in ("cpu", "cuda") if packed is None else packed
    return (sum(LENGTHS),) if is_packed else (len(LENGTHS), max(LENGTHS))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("target", "name"), CASES)
def test_vectors_are_those_of_the_token_in_transformers(
    tmp_path: Path, target: str, name: str, mode: PoolingMode
) -> None:
    tiny = shared(name)
    card = make_card(tiny.save(tmp_path), tiny.hidden, tiny.longest, pooling=(mode,))
    session = load_target(architecture_of(tmp_path, card), card, tmp_path, target, "fp32")
    parity = tiny.parity(session)
    for lengths in ((1,), (tiny.longest,), (3, 1, 9, tiny.longest, 2)):
        rows = parity.rows(lengths)
        parts = np.split(parity.huggingface(rows), 4, axis=1)  # of each mode of `parity.POOLING`
        expected = parts[0] if mode == "cls" else parts[-1]
        np.testing.assert_allclose(parity.fletcher(rows), expected, rtol=0, atol=tiny.tolerance)


@pytest.mark.parametrize(("target", "name"), CASES)
def test_products_behind_the_last_context_have_a_row_for_each_text(tmp_path: Path, target: str, name: str) -> None:
    tiny = shared(name)
    card = make_card(tiny.save(tmp_path), tiny.hidden, 24, pooling=("lasttoken",))
    architecture = architecture_of(tmp_path, card)
    if not architecture.layers:
        pytest.skip("it has no layers")
    shapes = _shapes(architecture, card, tmp_path, target)
    texts = (1,) if target == "coreml" else (len(LENGTHS),)
    before, behind = _rows_of_last_layer(architecture, shapes)
    assert before <= {_tokens(target), texts}  # of the first tokens alone, for Longformer's global attention
    assert _tokens(target) in before
    if name == "nomic_bert_experts" and target == "cpu":  # an expert has the rows of those texts that chose it
        assert max(behind) == texts
    else:
        assert behind == {texts}
    for name, shape in shapes.items():
        if name.startswith(f"{architecture.layers[0].name}/feed_forward/"):
            assert shape != texts


def test_products_of_a_causal_model_in_half_precision_have_a_row_for_each_text(tmp_path: Path) -> None:
    tiny = shared("qwen3")
    card = make_card(tiny.save(tmp_path), tiny.hidden, 24, pooling=("lasttoken",))
    architecture = architecture_of(tmp_path, card)
    before, behind = _rows_of_last_layer(architecture, _shapes(architecture, card, tmp_path, "cuda", "fp16"))
    assert (before, behind) == ({_tokens("cuda", packed=False)}, {(len(LENGTHS),)})


def _linear(width: int, out: int) -> Linear:
    return Linear(constant("head.weight", np.ones((width, out), np.float32)), None)


def _all_rows() -> Mapping[str, tuple[tuple[Module, ...], dict[str, object]]]:
    """Return modules and fields of architectures of width 48 and three layers that read all rows of the last layer."""
    dense, table = Dense(_linear(48, 48), "identity"), constant("table", np.ones((120, 48), np.float32))
    return {
        "mean": ((Pooling(("mean",)),), {}),
        "two tokens": ((Pooling(("cls", "lasttoken")),), {}),
        "layer average": ((LayerAverage((0.0, 0.0, 0.5, 0.5)), Pooling(("cls",))), {}),
        "colbert": ((dense, Normalize()), {"output": "token_vectors"}),
        "splade": ((Decoder(table, None), Pooling(("max",)), Saturation()), {"output": "sparse"}),
        "bge-m3": ((Pooling(("cls",)),), {"token_outputs": (TokenOutput("token_weights", 1, (dense,)),)}),
    }


@pytest.mark.parametrize("kind", list(_all_rows()))
@pytest.mark.parametrize("target", TARGETS)
def test_models_that_read_other_tokens_compute_all_rows(tmp_path: Path, target: str, kind: str) -> None:
    if (target, kind) == ("coreml", "splade"):
        pytest.skip("coreml refuses it by name")
    tiny = shared("bert")
    card = make_card(tiny.save(tmp_path), tiny.hidden, 24)
    modules, fields = _all_rows()[kind]
    architecture = dataclasses.replace(architecture_of(tmp_path, card), modules=modules, **fields)  # type: ignore[arg-type]
    before, behind = _rows_of_last_layer(architecture, _shapes(architecture, card, tmp_path, target))
    assert before == behind == {_tokens(target)}


@pytest.mark.parametrize("mode", MODES)
def test_a_product_before_the_pooling_has_a_row_for_each_text(tmp_path: Path, mode: PoolingMode) -> None:
    tiny = shared("bert")
    card = make_card(tiny.save(tmp_path), tiny.hidden, 24)
    modules = (Dense(_linear(48, 20), "tanh"), Pooling((mode,)))
    architecture = dataclasses.replace(architecture_of(tmp_path, card), modules=modules)
    assert _shapes(architecture, card, tmp_path, "cpu")["modules.0/dense"] == (len(LENGTHS),)


def test_a_causal_graph_takes_rows_of_the_width_of_the_product_before_the_pooling(tmp_path: Path) -> None:
    tiny = shared("qwen3")
    card = make_card(tiny.save(tmp_path), tiny.hidden, 24)
    weight = np.random.default_rng(0).normal(0, 0.1, (tiny.hidden, 20)).astype(np.float32)
    dense = Dense(Linear(constant("head.weight", weight), None), "tanh")
    architecture = dataclasses.replace(architecture_of(tmp_path, card), modules=(dense, Pooling(("cls", "lasttoken"))))
    card = make_card(tmp_path, 20, 24, pooling=("cls", "lasttoken"))
    parity = tiny.parity(load_target(architecture, card, tmp_path, "cuda", "fp16"))
    rows = parity.rows(LENGTHS)
    first, *_, last = np.split(parity.huggingface(rows), 4, axis=1)  # of each mode of `parity.POOLING`
    expected = np.concatenate([np.tanh(first @ weight), np.tanh(last @ weight)], axis=1)
    np.testing.assert_allclose(parity.fletcher(rows), expected, rtol=0, atol=0.02)
