"""LFM2: its encoder against the authors' formulas, ColBERT against sentence-transformers, and refused settings."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import MultiVectorEncoder

from fletcher.convert.checkpoint.checkpoint import Checkpoint
from fletcher.convert.checkpoint.files import check_files
from fletcher.convert.checkpoint.ignored_keys import IgnoredKeys
from fletcher.convert.families import describe
from fletcher.convert.layers.verify import verify_layers
from fletcher.convert.targets.coreml.emit import emit_coreml
from fletcher.convert.verify.verify import verify
from fletcher.runtime import Encoder
from fletcher.runtime.errors import CheckpointError, InputError

from ...heads.test_colbert import QUERIES, check, make
from ...heads.tiny import DOCUMENTS, convert
from ...layers.models import export_mean
from ...targets.sessions import parity_of
from .lfm2_encoder import ENCODER, make_encoder, rewrite, tiny_encoder
from .models import make_tiny


@pytest.mark.parametrize(
    "target", ["cpu", *(pytest.param(target, marks=pytest.mark.slow) for target in ("cuda", "tensorrt", "coreml"))]
)
@pytest.mark.parametrize(
    "changes",
    [{}, pytest.param({"conv_bias": True, "conv_L_cache": 5}, marks=pytest.mark.slow)],
    ids=["published", "biased"],
)
def test_the_encoder(tmp_path: Path, target: Any, changes: dict[str, Any]) -> None:
    parity = parity_of(tiny_encoder(**changes), tmp_path, target)
    parity.check_batches()
    parity.check_company()


def test_the_encoder_is_verified_layer_by_layer(tmp_path: Path) -> None:
    tiny = tiny_encoder(max_position_embeddings=100, vocab_size=120)
    tiny.save(tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / "modeling_lfm2_bidirectional.py").write_text("raise RuntimeError('it was run')")
    artifact = export_mean(tmp_path / "checkpoint", tiny.hidden)
    report = verify_layers(artifact)
    assert report.first is None, report.summary
    assert verify(artifact).verdict == "passed"


EXPANSIONS = [None, {"strategy": "fixed", "length": 9}, {"strategy": "fixed", "length": 9, "attend": True}]


@pytest.mark.parametrize("expansion", EXPANSIONS, ids=["none", "unseen", "seen"])
def test_colbert(tmp_path: Path, expansion: Any) -> None:
    check(make(tmp_path / "model", family="Lfm2", expansion=expansion, skipped=list(".,!?-"), document_length=15))


@pytest.mark.parametrize(
    ("changes", "zero_padding"),
    [
        (ENCODER, False),
        ({"model_type": "lfm2_bidirectional"}, True),
        pytest.param({**ENCODER, "conv_zero_padding": True}, True, marks=pytest.mark.slow),
    ],
    ids=["of_the_repository", "of_transformers", "by_key"],
)
def test_colbert_of_the_encoder(tmp_path: Path, changes: dict[str, Any], zero_padding: bool) -> None:
    """Tokens of the expansion are in the convolutions of the repository's class, and not in those of transformers'."""
    folder = make(tmp_path / "model", family="Lfm2", expansion=EXPANSIONS[1])
    model = MultiVectorEncoder(str(folder), device="cpu", model_kwargs={"attn_implementation": "eager"})
    make_encoder(model[0].model, zero_padding=zero_padding)
    artifact = convert(rewrite(folder, **changes)).path
    with Encoder.load(artifact, workers=1) as encoder:
        for texts, encode, kind in (
            (QUERIES, model.encode_query, "query"),
            (DOCUMENTS, model.encode_document, "document"),
        ):
            expected = [encode([text])[0].numpy() for text in texts]
            found = encoder.embed_tokens(texts, input_type=kind).vectors
            np.testing.assert_allclose(found, np.concatenate(expected), rtol=0, atol=1e-5)
    assert verify(artifact).verdict == "passed"


def test_coreml_cannot_tell_expansion_from_padding(tmp_path: Path) -> None:
    folder = tiny_encoder().save(tmp_path)
    architecture = dataclasses.replace(describe(Checkpoint.open(folder)), output="token_vectors", unseen_tail=4)
    with pytest.raises(InputError, match="coreml cannot tell padding"):
        emit_coreml(architecture, 48, 30)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"layer_types": ["conv", "sliding_attention", "conv"]}, "layer_types"),
        ({**ENCODER, "conv_L_cache": 4}, "conv_L_cache"),
        ({"conv_bias": "no"}, "conv_bias"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "longrope"),
        ({"window": 4}, "window"),
    ],
)
def test_what_is_not_authored_is_refused(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    folder = rewrite(make_tiny("lfm2").save(tmp_path), **changes)
    with pytest.raises(CheckpointError, match=named):
        describe(Checkpoint.open(folder))


def test_other_code_of_a_repository_is_refused(tmp_path: Path) -> None:
    folder = rewrite(make_tiny("lfm2").save(tmp_path), auto_map={"AutoModel": "modeling.Lfm2WithMore"})
    with pytest.raises(CheckpointError, match="Lfm2WithMore"):
        check_files(folder, IgnoredKeys())


def test_the_keys_of_published_files(tmp_path: Path) -> None:
    """The width comes from `block_ff_dim`, the layers from `full_attn_idxs`, the base from `rope_theta`."""
    tiny = make_tiny("lfm2", intermediate_size=30)  # two thirds of it, rounded up to a multiple of 8: 24
    folder = tiny.save(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    for key in ("layer_types", "rope_parameters", "intermediate_size"):
        config.pop(key)
    config |= {"full_attn_idxs": [1], "block_ff_dim": 30, "rope_theta": 1_000_000.0, "theta": 1_000_000.0}
    config |= {"block_dim": 48, "block_use_swiglu": True, "conv_dim": 48, "num_heads": 4, "use_pos_enc": True}
    (folder / "config.json").write_text(json.dumps(config))
    architecture = describe(Checkpoint.open(folder))
    assert [len(architecture.attentions), len(architecture.short_convolutions)] == [1, 2]
    assert architecture.feed_forwards[0].up.weight.shape == (48, 24)
