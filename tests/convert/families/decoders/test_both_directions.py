"""NVIDIA's model types for attention in both directions, and the positions of Ministral 3 that are not scaled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fletcher.convert.checkpoint.checkpoint import Checkpoint
from fletcher.convert.checkpoint.files import check_files
from fletcher.convert.checkpoint.ignored_keys import IgnoredKeys
from fletcher.convert.export.export import export
from fletcher.convert.families import describe
from fletcher.convert.layers.verify import verify_layers
from fletcher.convert.verify.verify import verify
from fletcher.runtime import Encoder
from fletcher.runtime.errors import CheckpointError
from fletcher.runtime.inputs import Texts

from ...layers.models import MAX_TOKENS, export_mean
from ...targets.sessions import parity_of
from ...targets.tiny import Tiny
from ..tiny import edit_config
from .both_directions import CODE, USUAL, tiny_both
from .models import POSITIONS, make_tiny, settings_of

TEXT = "w5 w17 w8 w40 w2"
ORIGINAL = "original_max_position_embeddings"


def exportable(family: str) -> Tiny:
    """Return a tiny model for texts of `MAX_TOKENS` tokens."""
    longest = {"max_position_embeddings": MAX_TOKENS}
    if family == "ministral3_bidirec":
        longest = {"rope_parameters": settings_of("ministral3")["rope_parameters"] | {ORIGINAL: MAX_TOKENS}}
    return tiny_both(family, vocab_size=120, **longest)


def vector_of(model: Any, ids: NDArray[np.int32], mask: torch.Tensor) -> NDArray[np.float32]:
    """Return the mean of transformers' token vectors with an explicit mask, normalized."""
    with torch.no_grad():
        states = model(input_ids=torch.tensor(ids[None].astype(np.int64)), attention_mask=mask).last_hidden_state
    return np.asarray(torch.nn.functional.normalize(states[0].mean(0), dim=-1).numpy())


@pytest.mark.parametrize("family", USUAL)
def test_parity(tmp_path: Path, family: str) -> None:
    parity = parity_of(tiny_both(family), tmp_path, "cpu")
    parity.check_batches()
    parity.check_company()


@pytest.mark.parametrize("family", USUAL)
def test_a_token_attends_to_later_ones(tmp_path: Path, family: str) -> None:
    """The reference has an explicit mask, of which every element allows its token."""
    tiny = exportable(family)
    artifact = export_mean(tiny.save(tmp_path / "checkpoint"), tiny.hidden)
    with Encoder.load(artifact, workers=1) as encoder:
        ids = encoder.prepare(Texts.of([TEXT])).encodings.ids
        ours = encoder.embed([TEXT]).vectors[0]
    every = torch.zeros(1, 1, len(ids), len(ids))
    earlier = torch.full_like(every, -torch.inf).triu(1)
    expected, causal = (vector_of(tiny.model, ids, mask) for mask in (every, earlier))
    np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-5)
    assert np.abs(ours - causal).max() > 0.01


@pytest.mark.parametrize("family", ["llama_bidirec", pytest.param("ministral3_bidirec", marks=pytest.mark.slow)])
def test_verification_compares_vectors_and_layers(tmp_path: Path, family: str) -> None:
    tiny = exportable(family)
    tiny.save(tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / CODE[family]).write_text("raise RuntimeError('it was run')")
    artifact = export_mean(tmp_path / "checkpoint", tiny.hidden)
    report = verify(artifact)
    assert report.verdict == "passed", report
    assert family in report.method
    layers = verify_layers(artifact)
    assert layers.first is None and layers.verdict == "passed", layers.summary


def test_other_code_of_a_repository_is_refused(tmp_path: Path) -> None:
    tiny_both("llama_bidirec").save(tmp_path)
    edit_config(tmp_path, auto_map={"AutoModel": "modeling.LlamaNemotronVLModel"})
    with pytest.raises(CheckpointError, match="LlamaNemotronVLModel"):
        check_files(tmp_path, IgnoredKeys())


@pytest.mark.parametrize(
    ("name", "changes", "named"),
    [
        ("llama_bidirec", {"is_causal": True}, "is_causal is True"),
        ("llama_bidirec", {"projection": 4}, "projection"),
        ("ministral3", {"attention_bias": True}, "attention_bias"),
        ("ministral3", {"is_causal": None}, "is_causal is None"),
        ("ministral3", {"pooling": "avg"}, "pooling"),
        ("ministral3", {"rope_parameters": {"rope_type": "default", "rope_theta": 10.0}}, "llama_4_scaling_beta"),
        (
            "ministral3",
            {"rope_parameters": {"rope_type": "default", "rope_theta": 10.0, "llama_4_scaling_beta": 0.1}},
            ORIGINAL,
        ),
        ("ministral3", {"rope_parameters": {"type": "yarn", "factor": 2.0, "llama_4_scaling_beta": -1}}, "is -1"),
    ],
)
def test_unsupported_settings_are_refused_by_name(
    tmp_path: Path, name: str, changes: dict[str, Any], named: str
) -> None:
    (tiny_both(name) if name in USUAL else make_tiny(name)).save(tmp_path)
    edit_config(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=named):
        describe(Checkpoint.open(tmp_path))


def test_a_ministral3_ends_where_its_queries_are_scaled(tmp_path: Path) -> None:
    tiny = make_tiny("ministral3")
    folder = tiny.save(tmp_path / "checkpoint")
    assert describe(Checkpoint.open(folder)).max_positions == POSITIONS
    with pytest.raises(CheckpointError, match=r"positions of .* end at 40 \(.*llama_4_scaling_beta.*--max-tokens"):
        export(str(folder), tmp_path / "artifact", pooling="mean", max_tokens=POSITIONS + 1)


def test_defaults_of_ministral3s_class(tmp_path: Path) -> None:
    """A file without the keys has the class's heads, positions and epsilon."""
    tiny = make_tiny("ministral3", head_dim=128)
    folder = tiny.save(tmp_path)
    edit_config(folder, "head_dim", "rope_parameters", "max_position_embeddings", "rms_norm_eps")
    defaults = type(tiny.model.config)()
    architecture = describe(Checkpoint.open(folder))
    assert architecture.attentions[0].head_size == defaults.head_dim
    assert architecture.max_positions == defaults.rope_parameters[ORIGINAL]
    assert architecture.final_norm is not None and architecture.final_norm.epsilon == defaults.rms_norm_eps
    frequencies = type(tiny.model.rotary_emb)(defaults)
    rotary = architecture.attentions[0].rotary
    assert rotary is not None
    np.testing.assert_allclose(rotary.frequencies, frequencies.inv_freq.numpy(), rtol=1e-6)
    assert rotary.factor == frequencies.attention_scaling
