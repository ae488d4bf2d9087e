"""Post-processing of vectors, compared with sentence-transformers' quantization and torch's layer norm."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sentence_transformers.util.quantization import quantize_embeddings

from fletcher.model_zoo.card import ModelCard
from fletcher.runtime import Encoder
from fletcher.runtime.errors import OptionError
from fletcher.runtime.tasks.postprocess import cast, shorten

CARD = ModelCard(
    name="m",
    family="bert",
    dimension=16,
    max_tokens=8,
    pooling=("mean",),
    normalize=True,
    license="MIT",
    matryoshka=(8,),
)
VECTORS = np.random.default_rng(0).standard_normal((5, 16)).astype(np.float32)

finite = hnp.arrays(
    np.float32,
    st.tuples(st.integers(0, 4), st.just(8)),
    elements=st.floats(-1e3, 1e3, width=32, allow_subnormal=False),
)


def test_vectors_are_not_copied_if_nothing_changes() -> None:
    assert shorten(VECTORS, CARD, None) is VECTORS
    assert shorten(VECTORS, CARD, 16) is VECTORS
    assert cast(VECTORS, "float32") == (VECTORS, None)


def test_bits_are_those_of_sentence_transformers() -> None:
    converted, scales = cast(VECTORS, "ubinary")
    np.testing.assert_array_equal(converted, quantize_embeddings(VECTORS, precision="ubinary"))
    assert converted.dtype == np.uint8 and scales is None


@given(finite)
@settings(max_examples=100, deadline=None)
def test_int8_is_within_half_a_scale(vectors: np.ndarray) -> None:
    converted, scales = cast(vectors, "int8")
    assert converted.dtype == np.int8 and scales is not None and scales.dtype == np.float32
    assert scales.shape == (len(vectors),)
    assert converted.min(initial=0) >= -127
    error = np.abs(converted.astype(np.float64) * scales[:, None] - vectors)
    assert (error <= scales[:, None] * 0.5001).all()
    np.testing.assert_array_equal(cast(-vectors, "int8")[0], -converted)


def test_a_zero_vector_has_scale_zero() -> None:
    converted, scales = cast(np.zeros((1, 8), np.float32), "int8")
    assert not converted.any()
    assert scales is not None and scales.tolist() == [0]


def test_float16_is_the_nearest() -> None:
    converted, _ = cast(VECTORS, "float16")
    np.testing.assert_array_equal(converted, torch.from_numpy(VECTORS).half().numpy())


def test_a_cut_is_normed_and_layer_normed_as_torch_does() -> None:
    uncut = torch.from_numpy(VECTORS)
    plain = torch.nn.functional.normalize(uncut[:, :8]).numpy()
    np.testing.assert_allclose(shorten(VECTORS, CARD, 8), plain, atol=1e-6)
    nomic = msgspec.structs.replace(CARD, layer_norm_before_truncation=True)
    normed = torch.nn.functional.layer_norm(uncut, (16,))[:, :8]
    np.testing.assert_allclose(shorten(VECTORS, nomic, 8), torch.nn.functional.normalize(normed).numpy(), atol=1e-6)
    with pytest.raises(OptionError, match="dimensions is 7; m gives vectors of 16, 8"):
        shorten(VECTORS, CARD, 7)


def test_every_type_of_the_real_model_ranks_alike(minilm_artifact: Path) -> None:
    texts = ["A man is eating food.", "A man is eating bread.", "The girl is carrying a baby.", "Someone eats a meal."]
    with Encoder.load(minilm_artifact, provider="mlas") as encoder:
        full = encoder.embed(texts).vectors
        half = encoder.embed(texts, dtype="float16").vectors
        small = encoder.embed(texts, dtype="int8")
        bits = encoder.embed(texts, dtype="ubinary").vectors
        with pytest.raises(OptionError, match="dtype is 'int4': use one of float32, float16, int8, ubinary"):
            encoder.embed(texts, dtype="int4")  # type: ignore[arg-type]
    np.testing.assert_allclose(half.astype(np.float32), full, atol=1e-4)
    assert small.scales is not None
    np.testing.assert_allclose(small.vectors * small.scales[:, None], full, atol=small.scales.max() / 2 + 1e-7)
    assert bits.shape == (4, 48)
    near = np.unpackbits(bits[0] ^ bits, axis=1).reshape(4, -1).sum(axis=1)
    assert near[0] == 0 and near[1] < near[2]
