"""MPNet compared with transformers: the learned bias by distance, near and far."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import MPNetConfig, MPNetForMaskedLM, MPNetForSequenceClassification, MPNetModel
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

from fletcher.convert.targets.shared.positions import buckets

from ..verify.parity import ROBERTA_TOKENS, Parity, randomize
from .tiny import POSITIONS, SIZES

FAR = 300  # distances beyond 128 share the last bucket


def _parity(model: Any, folder: Path, longest: int, **options: Any) -> Parity:
    return Parity.of(model, folder, longest, ROBERTA_TOKENS, absolute=False, **options)


@pytest.mark.parametrize("positions", [POSITIONS, FAR])
def test_parity(tmp_path: Path, positions: int) -> None:
    sizes = SIZES | {"max_position_embeddings": positions}
    parity = _parity(randomize(MPNetModel(MPNetConfig(**sizes))), tmp_path, positions - 2)
    parity.check()
    parity.check_sensitivity("attn.k.bias", "pooler.dense.weight", "pooler.dense.bias")


def test_a_padding_token_inside_a_text(tmp_path: Path) -> None:
    parity = _parity(randomize(MPNetModel(MPNetConfig(**SIZES))), tmp_path, POSITIONS - 2)
    rows = [(0, 9, 1, 9, 2), (1,), (1, 1, 9, 9, 1, 8, 1), (0, 9, 9, 2)]
    np.testing.assert_allclose(parity.fletcher(rows), parity.huggingface(rows), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", [MPNetForMaskedLM, MPNetForSequenceClassification])
def test_a_head_is_left_out(tmp_path: Path, kind: Any) -> None:
    model = randomize(kind(MPNetConfig(**SIZES)))
    _parity(model, tmp_path, POSITIONS - 2, encoder=model.mpnet).check_batches()


def test_buckets_are_those_of_transformers() -> None:
    """Compare every distance of 8,192 positions: at a boundary, the rounding of a logarithm decides."""
    distances = np.arange(-8191, 8192)
    theirs = MPNetEncoder.relative_position_bucket(torch.from_numpy(distances), num_buckets=32)  # type: ignore[no-untyped-call]
    np.testing.assert_array_equal(buckets(distances, 32, 128), theirs.numpy())
