"""`exact`: a text has the same vector to the last bit, whatever texts come with it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from fletcher.convert.texts import SENTENCES
from fletcher.quantize.quantized_artifact import quantize
from fletcher.runtime import Encoder
from fletcher.runtime.errors import OptionError
from fletcher.runtime.options.load import LoadOptions
from fletcher.serve.engine.engine import Engine

from ..serve.fake_encoder import request_for

#: Texts of all lengths, from an empty one to one that is as long as the model's longest input.
TEXTS = ["", "a", *SENTENCES[:20], " ".join(SENTENCES[:6]), " ".join(SENTENCES)]


@pytest.mark.parametrize("provider", ["mlas", "openvino"])
def test_no_other_text_changes_a_bit(minilm_artifact: Path, provider: str) -> None:
    rng = np.random.default_rng(2)
    with Encoder.load(minilm_artifact, provider=provider, exact=True, workers=1) as encoder:
        assert encoder.info.bounds is not None and encoder.info.bounds.batch.max_abs == 0.0
        alone = np.concatenate([encoder.embed([text]).vectors for text in TEXTS])
        np.testing.assert_array_equal(encoder.embed(TEXTS).vectors, alone)
        for _ in range(3):
            order = rng.permutation(len(TEXTS))
            np.testing.assert_array_equal(encoder.embed([TEXTS[row] for row in order]).vectors, alone[order])


def test_a_server_that_joins_requests_to_batches_gives_the_same_bits(minilm_artifact: Path) -> None:
    with Encoder.load(minilm_artifact, provider="mlas", exact=True, workers=2) as encoder:
        alone = np.concatenate([encoder.embed([text]).vectors for text in TEXTS])
        with Engine(encoder) as engine, ThreadPoolExecutor(8) as pool:
            answers = pool.map(lambda text: engine.submit(request_for([text])).result(60), TEXTS * 4)
            np.testing.assert_array_equal(
                np.concatenate([answer.vectors for answer in answers]), np.concatenate([alone] * 4)
            )


def test_a_quantization_whose_batches_share_a_scale_becomes_independent_of_them(
    tiny_artifact: Path, tmp_path: Path
) -> None:
    """`int8-dynamic` takes one scale from all activations of a batch, so other texts change a vector by more than bits."""
    quantize(tiny_artifact, tmp_path / "q", "int8-dynamic")
    texts = ["a", "the quick brown fox", *SENTENCES[:6]]
    with Encoder.load(tmp_path / "q", provider="mlas", workers=1, token_budget=4096) as encoder:
        assert encoder.info.bounds is not None and encoder.info.bounds.batch.max_abs is None
        alone = np.concatenate([encoder.embed([text]).vectors for text in texts])
        assert np.abs(encoder.embed(texts).vectors - alone).max() > 1e-4
    with Encoder.load(tmp_path / "q", provider="mlas", exact=True) as encoder:
        assert encoder.info.bounds is not None and encoder.info.bounds.batch.max_abs == 0.0
        np.testing.assert_array_equal(encoder.embed(texts).vectors, alone)


def test_without_exact_a_batch_changes_bits(minilm_artifact: Path) -> None:
    """The test above would pass for any reason if batches never changed a bit."""
    with Encoder.load(minilm_artifact, provider="mlas", workers=1, token_budget=4096) as encoder:
        alone = np.concatenate([encoder.embed([text]).vectors for text in TEXTS])
        apart = np.abs(encoder.embed(TEXTS).vectors - alone).max()
    assert 0 < apart <= 1e-6


def test_exact_excludes_a_token_budget() -> None:
    with pytest.raises(OptionError, match="exclude each other"):
        LoadOptions(exact=True, token_budget=512)
