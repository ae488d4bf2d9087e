"""Graphs that Optimum traces from tiny models, compared with the graphs that Fletcher writes for the same models.

The tests are slow and need an environment with the extra `export` (see test_optimum.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import transformers

from ..families.tiny import DISTILBERT_SIZES, POSITIONS, SIZES
from ..verify.parity import BERT_TOKENS, ROBERTA_TOKENS, Parity, SpecialTokens, randomize

optimum: Any = pytest.importorskip("optimum.exporters.onnx", reason="needs the extra `export`")

# The warnings come from torch's tracer and from transformers 4 with a newer torch.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

LENGTHS = (3, 1, 9, 2, 17, 5, 12)

ROBERTA: dict[str, Any] = SIZES | {"pad_token_id": 1, "type_vocab_size": 1}

FAMILIES: list[tuple[str, dict[str, Any], SpecialTokens]] = [
    ("Bert", SIZES, BERT_TOKENS),
    ("Roberta", ROBERTA, ROBERTA_TOKENS),
    ("XLMRoberta", ROBERTA, ROBERTA_TOKENS),
    ("Camembert", ROBERTA, ROBERTA_TOKENS),
    ("DistilBert", DISTILBERT_SIZES, BERT_TOKENS),
    ("MPNet", SIZES | {"pad_token_id": 1}, ROBERTA_TOKENS),
    ("Albert", SIZES | {"embedding_size": 16, "pad_token_id": 0}, BERT_TOKENS),
    ("Electra", SIZES | {"embedding_size": 16}, BERT_TOKENS),
    (
        "ModernBert",
        SIZES | {"pad_token_id": 0, "cls_token_id": 2, "bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3},
        BERT_TOKENS,
    ),
]


@pytest.mark.parametrize(("family", "sizes", "tokens"), FAMILIES)
def test_optimums_graph_agrees(tmp_path: Path, family: str, sizes: dict[str, Any], tokens: SpecialTokens) -> None:
    config = getattr(transformers, f"{family}Config")(**sizes)
    model = randomize(getattr(transformers, f"{family}Model")(config))
    longest = POSITIONS - 2
    parity = Parity.of(model, tmp_path / "model", longest, tokens)
    optimum.main_export(
        str(tmp_path / "model"),
        tmp_path / "traced",
        task="feature-extraction",
        library_name="transformers",
        framework="pt",
        dtype="fp32",
        do_validation=False,
    )
    session = onnxruntime.InferenceSession(tmp_path / "traced" / "model.onnx", providers=["CPUExecutionProvider"])
    rows = parity.rows([*LENGTHS, longest])
    ids = np.full((len(rows), longest), tokens.pad, np.int64)
    mask = np.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row)], mask[index, : len(row)] = row, 1
    feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    input_names = {info.name for info in session.get_inputs()}
    (hidden,) = session.run(
        ["last_hidden_state"], {name: value for name, value in feeds.items() if name in input_names}
    )
    states = [hidden[index, : len(row)] for index, row in enumerate(rows)]
    pooled = [np.concatenate([s[0], s.mean(axis=0), s.max(axis=0), s[-1]]) for s in states]  # in the order of `POOLING`
    np.testing.assert_allclose(parity.fletcher(rows), np.stack(pooled), atol=1e-5)
