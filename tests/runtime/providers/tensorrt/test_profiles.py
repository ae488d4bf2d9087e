"""Division of batches into rectangles that TensorRT's engines accept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fletcher.runtime.artifact.manifest import Profile, TensorInfo, Variant
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.errors import ArtifactError, InputError
from fletcher.runtime.providers.tensorrt.options import shapes_text, tensorrt_build_options
from fletcher.runtime.providers.tensorrt.profiles import Limit, limits_of, sides_of, split

from ...gpus import variant_with

INPUTS = (
    TensorInfo("input_ids", "int32", ("texts", "longest")),
    TensorInfo("steps", "int64", ("longest",)),
    TensorInfo("fixed", "float32", (3,)),
)


def profile(texts: int, longest: int) -> Profile:
    """Return a profile from one short text up to a rectangle."""
    sides = [(1, 1), (max(1, texts // 2), max(1, longest // 2)), (texts, longest)]
    return Profile(*({"input_ids": side, "steps": side[1:]} for side in sides))


def batch_of(lengths: list[int]) -> Encodings:
    return Encodings.from_lists([[5] * length for length in lengths])


@given(st.lists(st.integers(1, 40), min_size=1, max_size=40), st.sampled_from([1, 8]))
def test_every_text_is_in_one_rectangle_that_an_engine_accepts(lengths: list[int], multiple: int) -> None:
    limits = [Limit(3, 40), Limit(5, 8)]  # the wide one first: the order of the manifest
    seen = []
    for part in split(batch_of(lengths), limits, multiple):
        widest = max(lengths[row] for row in part.rows)
        assert len(part.rows) <= limits[part.profile].texts
        assert widest + -widest % multiple <= limits[part.profile].longest
        seen += part.rows.tolist()
    assert sorted(seen) == list(range(len(lengths)))


def test_a_batch_that_fits_keeps_its_order() -> None:
    (part,) = split(batch_of([7, 2, 5]), [Limit(4, 8), Limit(4, 20)])
    assert (part.profile, part.rows.tolist()) == (0, [0, 1, 2])


def test_texts_of_similar_length_share_a_rectangle() -> None:
    parts = split(batch_of([3, 20, 1, 2, 18, 4]), [Limit(2, 8), Limit(4, 20)])
    assert [(part.profile, part.rows.tolist()) for part in parts] == [(0, [2, 3]), (0, [0, 5]), (1, [4, 1])]


def test_a_text_longer_than_every_engine_is_rejected() -> None:
    with pytest.raises(InputError, match="a text of 21 tokens was given to an engine for at most 20"):
        split(batch_of([3, 21]), [Limit(2, 8), Limit(4, 20)])


def test_limits_are_those_of_the_manifest() -> None:
    assert limits_of(variant_with(INPUTS, (profile(256, 128), profile(64, 512)))) == (Limit(256, 128), Limit(64, 512))


def test_a_variant_without_profiles_is_rejected() -> None:
    with pytest.raises(ArtifactError, match="no profiles, and TensorRT would build an engine for every shape"):
        limits_of(variant_with(INPUTS, ()))


def test_a_profile_must_state_every_free_size() -> None:
    complete = profile(4, 8)
    lacking = Profile(complete.min, complete.opt, {"input_ids": (4, 8)})
    variant = variant_with(INPUTS, (lacking,))
    with pytest.raises(ArtifactError, match="lacks the inputs steps"):
        sides_of(variant, lacking)
    torn = Profile(complete.min, complete.opt, {"input_ids": (4, 8), "steps": (9,)})
    with pytest.raises(ArtifactError, match="does not define one number of texts and one number of tokens"):
        limits_of(variant_with(INPUTS, (torn,)))


def test_options_have_the_providers_syntax() -> None:
    """`input_id:32x1,attention_mask:32x1` is the example in ONNX Runtime's `ParseProfileShapes`."""
    assert shapes_text({"input_id": (32, 1), "attention_mask": (32, 1)}) == "input_id:32x1,attention_mask:32x1"
    variant: Variant = variant_with(INPUTS, (profile(4, 8),))
    options = tensorrt_build_options(1, sides_of(variant, variant.profiles[0]), Path("/c/p"), Path("/c/t"))
    assert options == {
        "device_id": "1",
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": "engines",
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": "/c/t",
        "trt_dump_ep_context_model": "True",
        "trt_ep_context_file_path": "/c/p/context.onnx",
        "trt_ep_context_embed_mode": "0",
        "trt_profile_min_shapes": "input_ids:1x1,steps:1",
        "trt_profile_opt_shapes": "input_ids:2x4,steps:4",
        "trt_profile_max_shapes": "input_ids:4x8,steps:8",
    }


def test_numpy_shapes_are_written_as_numbers() -> None:
    assert shapes_text({"x": tuple(np.array([2, 3]))}) == "x:2x3"
