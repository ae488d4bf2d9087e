"""Longformer compared with transformers: windows shorter and longer than the texts, of each layer, beside other texts."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder
from transformers import (
    LongformerConfig,
    LongformerForMaskedLM,
    LongformerForSequenceClassification,
    LongformerModel,
)

from fletcher.convert.checkpoint.checkpoint import Checkpoint
from fletcher.convert.export.export import export
from fletcher.convert.families import describe
from fletcher.convert.layers.verify import verify_layers
from fletcher.convert.verify.verify import verify
from fletcher.quantize.quantized_artifact import quantize
from fletcher.runtime import Artifact, Encoder
from fletcher.runtime.errors import CheckpointError

from ...heads.tiny import SIZES as PAIR_SIZES
from ...heads.tiny import save
from ...verify.parity import ROBERTA_TOKENS, Parity, load, make_card, randomize, save_checkpoint
from ..tiny import POSITIONS, SIZES, edit_config

LONGEST = POSITIONS - 2
#: Unused without global attention; and a key's bias, which softmax cancels.
UNSEEN = (
    *("key.bias", "pooler.dense.weight", "pooler.dense.bias"),
    *(f"{part}_global.{kind}" for part in ("query", "key", "value") for kind in ("weight", "bias")),
)


def make(window: Any, kind: Any = LongformerModel, **changes: Any) -> Any:
    return randomize(kind(LongformerConfig(**SIZES, attention_window=window, type_vocab_size=1, **changes)))


@pytest.mark.parametrize("window", [4, 6, 16, 64, [4, 12, 36]], ids=str)
def test_parity(tmp_path: Path, window: Any) -> None:
    # The size of a block depends on the longest text, and with it the order of sums.
    parity = Parity.of(make(window), tmp_path, LONGEST, ROBERTA_TOKENS, absolute=False, batch_tolerance=3e-6)
    parity.check_batches()
    parity.check_company()


def test_padding_and_every_weight(tmp_path: Path) -> None:
    parity = Parity.of(make(6), tmp_path, LONGEST, ROBERTA_TOKENS, absolute=False, sides=("right",))
    parity.check_padding()
    parity.check_sensitivity(*UNSEEN)
    assert describe(Checkpoint.open(tmp_path)).max_positions == LONGEST


def test_a_head_is_left_out(tmp_path: Path) -> None:
    model = make(6, LongformerForMaskedLM)
    Parity.of(model, tmp_path, LONGEST, ROBERTA_TOKENS, absolute=False, encoder=model.longformer).check_batches()


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a classifier, whose first token has global attention."""
    sizes = {**PAIR_SIZES, "type_vocab_size": 1, "attention_window": [4, 12], "num_labels": 1}
    model = randomize(LongformerForSequenceClassification(LongformerConfig(**sizes)))
    return save(model, tmp_path_factory.mktemp("classifier") / "model", types=False)


def test_every_point_of_the_classifier(classifier: Path, tmp_path: Path) -> None:
    """Expected values are those of `LongformerForSequenceClassification`, on texts longer and shorter than the windows."""
    export(str(classifier), tmp_path / "artifact", targets=("cpu", "tensorrt", "coreml"))
    for variant in Artifact.open(tmp_path / "artifact").manifest.variants:
        with warnings.catch_warnings():  # the devices' own sessions are not here
            warnings.filterwarnings("ignore", "the graph was compared, and the served session", RuntimeWarning)
            verify_layers(tmp_path / "artifact", variant=variant.name).raise_if_failed()
    verify(tmp_path / "artifact", variant="cpu-fp32").raise_if_failed()


def test_a_quantized_classifier(classifier: Path, tmp_path: Path) -> None:
    export(str(classifier), tmp_path / "artifact")
    texts = [" ".join(f"w{word}" for word in range(number % 20 + 1)) for number in range(40)]
    assert quantize(tmp_path / "artifact", tmp_path / "int8", "int8-per-token", texts=texts).cosine_min > 0.99
    expected = CrossEncoder(str(classifier), device="cpu").predict([("w1 w2", text) for text in texts], batch_size=1)
    with Encoder.load(tmp_path / "int8", provider="mlas", workers=1) as encoder:
        np.testing.assert_allclose(encoder.score("w1 w2", texts).scores[:, 0], expected, rtol=0, atol=0.05)


def test_the_classifier_needs_its_global_projections(classifier: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(classifier, tmp_path / "copy")
    tensors = load_file(copy / "model.safetensors")
    del tensors["longformer.encoder.layer.1.attention.self.key_global.weight"]
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"layer\.1\.attention\.self\.key_global\.weight"):
        export(str(copy), tmp_path / "artifact")


@pytest.mark.parametrize("window", [3, 0, [6, 6], [4, 6, 6], "6", True])
def test_windows_that_transformers_refuses(tmp_path: Path, window: Any) -> None:
    folder = save_checkpoint(make(6), tmp_path, ROBERTA_TOKENS)
    edit_config(folder, attention_window=window)
    with pytest.raises(CheckpointError, match="attention_window"):
        load(folder, make_card(folder, SIZES["hidden_size"], 24))
