"""Modules after several families: every pooling mode and possible next module, compared with sentence-transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling

from fletcher.runtime import Encoder

from ..verify.parity import randomize
from .test_classification import DISTILBERT, MODERNBERT
from .tiny import DOCUMENTS, SIZES, convert, save

MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")

FAMILIES: list[Any] = [
    ("Bert", SIZES),
    # test_parity compares the hidden states of every family; the code after them is the same for all families.
    pytest.param("XLMRoberta", SIZES | {"type_vocab_size": 1}, marks=pytest.mark.slow),
    pytest.param("DistilBert", DISTILBERT, marks=pytest.mark.slow),
    pytest.param("MPNet", SIZES, marks=pytest.mark.slow),
    ("ModernBert", MODERNBERT),
]

POOLING: list[tuple[str, ...]] = [*((mode,) for mode in MODES), ("mean", "cls"), MODES]


@pytest.mark.parametrize(("family", "sizes"), FAMILIES)
def test_vectors_are_those_of_sentence_transformers(tmp_path: Path, family: str, sizes: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    config = getattr(transformers, f"{family}Config")(**sizes)
    source = save(randomize(getattr(transformers, f"{family}Model")(config)), tmp_path / "model")
    for index, modes in enumerate(POOLING):
        width = 32 * len(modes)
        torch.manual_seed(index)
        norm = LayerNorm(width)
        torch.nn.init.normal_(norm.norm.weight)
        torch.nn.init.normal_(norm.norm.bias)
        followers: list[list[torch.nn.Module]] = [
            [Normalize()],
            [Dense(width, 9)],
            [norm, Dense(width, 9), Normalize()],
            [],
        ]
        pooling: Any = Pooling
        parts = [Transformer(str(source)), pooling(32, pooling_mode=modes), *followers[index % 4]]
        model = SentenceTransformer(modules=parts, device="cpu")
        model.save_pretrained(str(tmp_path / f"st{index}"))
        expected = np.stack([model.encode(text) for text in DOCUMENTS])
        with Encoder.load(convert(tmp_path / f"st{index}").path, workers=1) as encoder:
            np.testing.assert_allclose(encoder.embed(DOCUMENTS).vectors, expected, atol=1e-5, err_msg=str(modes))
