"""Graphs that are computed in pieces, compared with the same graphs in one session of ONNX Runtime."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fletcher.convert.checkpoint.tensors import Weight
from fletcher.convert.export.pieces import compute_in_pieces, group_rows
from fletcher.convert.graph.weights_file import unwritten
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.providers.mlas.graph import CpuGraph
from fletcher.runtime.session.feeds import make_feeds

from ..targets.models import MODELS
from ..targets.sessions import architecture_of, models_of
from ..verify.parity import make_card

LENGTHS = (9, 4, 1, 17, 17)
#: Bytes of a piece: a weight for each, a few of them, all of them.
SIZES = (1, 6_000, 1 << 30)


@pytest.mark.parametrize("name", ["bert", "qwen3", "nomic_bert_experts", "embedding_gemma2"])
def test_pieces_compute_what_one_session_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("fletcher.convert.checkpoint.tensors.PART", 50)  # parts of tables end inside rows
    tiny = MODELS[name]()
    card = make_card(tiny.save(tmp_path), tiny.hidden, tiny.longest, pooling=("mean",))
    (emission,), (graph,) = models_of(architecture_of(tmp_path, card), card, tmp_path, "cpu", "fp32")
    rng = np.random.default_rng(0)
    texts = Encodings.from_lists([rng.integers(5, tiny.vocabulary, length).tolist() for length in LENGTHS])
    batches = [texts.select(np.array(rows)) for rows in ([0, 1], [2], [3, 4])]
    feeds = [make_feeds(tuple(emission.graph.inputs), emission.feeds, batch) for batch in batches]
    whole = CpuGraph(graph.SerializeToString(), tmp_path)
    expected = [whole.run(batch, ["vectors"])[0] for batch in feeds]
    in_memory = emission.graph.model(unwritten(emission.graph.weights.values()))
    sources: list[tuple[Any, Any]] = [(graph, tmp_path), (in_memory, emission.graph.weights)]
    for size in SIZES:
        for model, weights in sources:
            found = compute_in_pieces(model, weights, feeds, ["vectors"], size=size)
            assert [set(batch) for batch in found] == [{"vectors"}] * 3
            for batch, vectors in zip(found, expected, strict=True):
                norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
                np.testing.assert_allclose(batch["vectors"] / norms, vectors / norms, rtol=0, atol=4e-7)


def test_a_table_larger_than_a_piece_is_never_loaded(tmp_path: Path) -> None:
    tiny = MODELS["bert"]()
    card = make_card(tiny.save(tmp_path), tiny.hidden, tiny.longest, pooling=("mean",))
    (emission,), _ = models_of(architecture_of(tmp_path, card), card, tmp_path, "cpu", "fp32")
    loaded: list[str] = []

    def recorded(weight: Weight) -> Weight:
        def load() -> NDArray[np.float32]:
            loaded.append(weight.name)
            return weight.load()

        return dataclasses.replace(weight, load=load)

    texts = Encodings.from_lists([[5, 6, 7]])
    feeds = [make_feeds(tuple(emission.graph.inputs), emission.feeds, texts)]
    model = emission.graph.model(unwritten(emission.graph.weights.values()))
    weights = {name: recorded(weight) for name, weight in emission.graph.weights.items()}
    compute_in_pieces(model, weights, feeds, ["vectors"], size=100)
    assert len(loaded) == len(set(loaded))
    tables = {node.input[0] for node in model.graph.node if node.op_type == "Gather"} & set(emission.graph.weights)
    assert tables and not tables & set(loaded)
    assert set(loaded) | tables == set(emission.graph.weights)


def test_rows_of_a_batch_have_at_most_512_tokens_with_padding() -> None:
    assert group_rows([]) == []
    assert group_rows([5, 600, 5, 250, 256, 1, 2]) == [[0], [1], [2, 3], [4, 5], [6]]
