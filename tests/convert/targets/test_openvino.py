"""The cpu graph of every family and head on OpenVINO: transformers' vectors, independent of other texts in the batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fletcher.convert.precision import Float
from fletcher.model_zoo import Head
from fletcher.model_zoo.card import PoolingMode
from fletcher.runtime import Encoder
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.providers.openvino.session import OpenVinoSession

from ..heads import test_classification, test_colbert, test_splade
from ..heads.tiny import convert
from ..verify.parity import TOLERANCE, load, make_card
from .models import NAMES, shared
from .sessions import architecture_of, models_of

HEADS: dict[str, tuple[Callable[[Path], Path], Head | None]] = {
    "scores": (test_classification.make, None),
    "sparse": (test_splade.make, "splade"),
    "token_vectors": (test_colbert.make, None),
}


def on_openvino(graph: Path) -> OpenVinoSession:
    return OpenVinoSession(graph, precision="fp32", threads=1, workers=1)


@pytest.mark.parametrize("name", NAMES)
def test_parity(tmp_path: Path, name: str) -> None:
    tiny = shared(name)
    load(tiny.save(tmp_path), make_card(tmp_path, tiny.hidden, tiny.longest)).close()
    with on_openvino(tmp_path / "graph" / "cpu.onnx") as session:
        # An element of llama_bidirec's vectors differs by 1.05e-5; the vectors are not normalized.
        tolerance = tiny.tolerance if name == "llama_bidirec" else TOLERANCE
        parity = tiny.parity(session, batch_tolerance=3e-6, tolerance=tolerance)
        parity.check_batches()
        parity.check_company()


QUICK = (("bert", "cls"), ("qwen3", "lasttoken"))


#: One model for each kind of last attention on the target `cpu`: one query for each text, windows in blocks, a causal mask.
@pytest.mark.parametrize(
    ("name", "mode"),
    [
        (name, mode) if (name, mode) in QUICK else pytest.param(name, mode, marks=pytest.mark.slow)
        for name in ("bert", "qwen3", "modernbert", "longformer", "lfm2", "convbert", "nomic_bert_experts")
        for mode in ("cls", "lasttoken")
    ],
)
def test_vectors_are_those_of_the_token_in_transformers(tmp_path: Path, name: str, mode: PoolingMode) -> None:
    tiny = shared(name)
    load(tiny.save(tmp_path), make_card(tmp_path, tiny.hidden, tiny.longest, pooling=(mode,))).close()
    with on_openvino(tmp_path / "graph" / "cpu.onnx") as session:
        parity = tiny.parity(session)
        for lengths in ((1,), (tiny.longest,), (3, 1, 9, tiny.longest, 2)):
            rows = parity.rows(lengths)
            parts = np.split(parity.huggingface(rows), 4, axis=1)  # of each mode of `parity.POOLING`
            expected = parts[0] if mode == "cls" else parts[-1]
            np.testing.assert_allclose(parity.fletcher(rows), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("head", HEADS)
def test_heads_pass_their_canaries(tmp_path: Path, head: str) -> None:
    """The values of a canary come from the reference library."""
    make, head_option = HEADS[head]
    with Encoder.load(convert(make(tmp_path / "model"), head_option).path, provider="openvino", workers=1) as encoder:
        assert encoder.info.provider == "OpenVINO CPU f32"
        assert encoder.card.output == head


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_halved_weights_pass_their_tolerance(tmp_path: Path, precision: Float) -> None:
    tiny = shared("bert")
    card = make_card(tiny.save(tmp_path), tiny.hidden, tiny.longest)
    models_of(architecture_of(tmp_path, card), card, tmp_path, "cpu", precision)
    with on_openvino(tmp_path / f"cpu-{precision}.onnx") as session:
        parity = tiny.parity(session)
        rows = parity.rows((3, 1, 9, 17))
        ours, theirs = parity.fletcher(rows), parity.huggingface(rows)
    cosines = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    assert cosines.min() > {"fp16": 0.9999, "bf16": 0.999}[precision]


@pytest.mark.parametrize("name", ["bert", "modernbert", "mpnet"])
def test_a_text_without_a_token_is_finite_and_changes_no_other(tmp_path: Path, name: str) -> None:
    tiny = shared(name)
    card = make_card(tiny.save(tmp_path), tiny.hidden, tiny.longest, pooling=("mean",))
    load(tmp_path, card).close()
    texts = ([2, 7, 9, 11, 3], [2, 8, 3])
    with on_openvino(tmp_path / "graph" / "cpu.onnx") as session:
        beside = session.run(Encodings.from_lists([texts[0], [], texts[1]]))
        alone = session.run(Encodings.from_lists(texts))
    assert np.isfinite(beside).all()
    np.testing.assert_allclose(beside[[0, 2]], alone, rtol=0, atol=1e-6)
