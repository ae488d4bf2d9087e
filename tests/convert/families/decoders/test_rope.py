"""Frequencies of rotary positions compared with transformers, and settings that are refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from fletcher.convert.checkpoint.checkpoint import Checkpoint
from fletcher.convert.families.decoders.rope import RopeContext, read_rope
from fletcher.convert.families.settings.reader import Config
from fletcher.runtime.errors import CheckpointError

WIDTH, POSITIONS = 128, 40_960

pytestmark = pytest.mark.filterwarnings("ignore")


def config(**values: Any) -> Config:
    return Config(Checkpoint(Path("checkpoint"), values, {}))


@pytest.mark.parametrize(
    "parameters",
    [
        {"rope_type": "default", "rope_theta": 1e6},
        {"rope_type": "linear", "factor": 3.0},
        {"rope_type": "dynamic", "factor": 2.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768, "rope_theta": 1e6},
        {"rope_type": "yarn", "factor": 1.0, "attention_factor": 0.7, "beta_fast": 16, "beta_slow": 2},
        {
            "rope_type": "yarn",
            "factor": None,
            "original_max_position_embeddings": 1024,
            "mscale": 1.2,
            "mscale_all_dim": 0.7,
            "truncate": False,
        },
        {
            "rope_type": "llama3",
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
            "rope_theta": 5e5,
        },
    ],
    ids=lambda parameters: parameters["rope_type"],
)
@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling"])
def test_frequencies_are_those_of_transformers(parameters: dict[str, Any], key: str) -> None:
    settings: dict[str, Any] = {key: dict(parameters), "max_position_embeddings": POSITIONS}
    theirs = transformers.LlamaConfig(hidden_size=8 * WIDTH, num_attention_heads=8, **settings)
    default: Any = LlamaRotaryEmbedding.compute_default_rope_parameters
    compute = ROPE_INIT_FUNCTIONS.get(parameters["rope_type"], default)
    frequencies, factor = compute(theirs)
    rotary = read_rope(config(**{key: parameters}), RopeContext(WIDTH, POSITIONS))
    np.testing.assert_allclose(rotary.frequencies, frequencies.numpy(), rtol=2e-7)
    assert rotary.factor == pytest.approx(factor, abs=1e-12)


def test_the_base_outside_of_the_parameters_is_the_default_of_the_one_inside() -> None:
    context = RopeContext(8, 64)
    inside = read_rope(config(rope_parameters={"rope_theta": 500.0}), context)
    outside = read_rope(config(rope_theta=500.0, rope_parameters={"rope_type": "default"}), context)
    assert inside == outside != read_rope(config(), context)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (
            {"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0]}},
            "rope_scaling has the rope_type 'longrope' .*is not authored",
        ),
        ({"rope_parameters": {"rope_type": "linear"}}, "lacks factor"),
        ({"rope_parameters": {"rope_type": "linear", "factor": "2"}}, "factor is '2'"),
        ({"rope_parameters": {"rope_type": "default", "factor": 2.0}}, "has factor"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "betafast": 3}}, "has betafast"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "truncate": 1}}, "truncate is 1"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 3.0}}}, "has full_attention"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"rope_parameters": {"type": "linear", "rope_type": "default"}}, "contradicts itself"),
        ({"rope_parameters": {"rope_theta": 3.0}, "rope_theta": 4.0}, "contradicts itself"),
        ({"rope_parameters": {"rope_theta": 3.0}, "rope_scaling": {"rope_theta": 4.0}}, "contradicts itself"),
        ({"rope_parameters": {"rope_theta": 0}}, "rope_theta is 0"),
        ({"rope_scaling": [2.0]}, "where a JSON object was expected"),
        (
            {
                "rope_parameters": {
                    "rope_type": "llama3",
                    "factor": 2.0,
                    "low_freq_factor": 4.0,
                    "high_freq_factor": 4.0,
                }
            },
            "high_freq_factor",
        ),
    ],
)
def test_settings_are_refused_by_name(values: dict[str, Any], named: str) -> None:
    with pytest.raises(CheckpointError, match=named):
        read_rope(config(**values), RopeContext(8, 64))
