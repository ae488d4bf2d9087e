"""Rows of padding only: no value of the graph is NaN, and the other texts of the batch do not change.

The runtime refuses a text without a token by name, but a graph must also handle such a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from safetensors import safe_open

from fletcher.model_zoo.card import ModelCard
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.providers.mlas.graph import CpuGraph
from fletcher.runtime.session.feeds import make_feeds

from ..verify.parity import make_card
from .models import NAMES, cases, shared
from .sessions import architecture_of, models_of
from .support.contrib_operators import spell_out

TARGETS = ("cpu", "cuda", "tensorrt")
TEXTS = ([2, 7, 9, 11, 3], [2, 8, 3])


def _card(folder: Path, hidden: int, longest: int) -> ModelCard:
    """Return a card with mean pooling, because a text without tokens has no first token."""
    return make_card(folder, hidden, longest, pooling=("mean",))


def _run(name: str, folder: Path, target: str, *batches: Encodings) -> Iterator[list[NDArray[Any]]]:
    """Yield the vectors of each batch, followed by the output of each node that computes floats."""
    tiny = shared(name)
    card = _card(tiny.save(folder), tiny.hidden, tiny.longest)
    # For coreml, the shortest bucket.
    (emission, *_), (model, *_) = models_of(architecture_of(folder, card), card, folder, target, "fp32")
    spelled = spell_out(model)
    inner = [
        node.output[0]
        for node in spelled.graph.node
        if node.op_type in ("Softmax", "Attention", "LayerNormalization", "RMSNormalization")
    ]
    assert inner or name == "static_embedding"  # it has no layers
    spelled.graph.output.extend(onnx.helper.make_empty_tensor_value_info(value) for value in inner)
    with safe_open(folder / f"{target}.fp32.safetensors", framework="numpy") as file:
        tables = {name: file.get_tensor(tensor) for name, tensor in emission.feeds.tables.items()}
    graph = CpuGraph(spelled.SerializeToString(), folder)
    for batch in batches:
        feeds = make_feeds(tuple(emission.graph.inputs), emission.feeds, batch, tables)
        yield graph.run(feeds, ["vectors", *inner])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("target", TARGETS)
def test_a_text_without_a_token_is_finite_and_changes_no_other(tmp_path: Path, name: str, target: str) -> None:
    together, separate = Encodings.from_lists([TEXTS[0], [], TEXTS[1]]), Encodings.from_lists(TEXTS)
    beside, (alone, *_) = _run(name, tmp_path, target, together, separate)
    for value in beside:
        assert np.isfinite(value).all()
    np.testing.assert_allclose(beside[0][[0, 2]], alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("target", "name"), cases("coreml"))
def test_a_graph_for_one_text_is_finite_without_a_token(tmp_path: Path, target: str, name: str) -> None:
    (values,) = _run(name, tmp_path, target, Encodings.from_lists([[]]))
    for value in values:
        assert np.isfinite(value).all()
