"""Families with RMS norms compared with transformers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fletcher.convert.export.export import export
from fletcher.runtime import Encoder

from ...targets.sessions import parity_of
from ...verify.parity import Parity, load, make_card, randomize, save_checkpoint
from .models import CASES, QUICK, make_tiny, settings_of

#: Parameters without effect: a bias of a key cancels in the softmax.
UNSEEN = ("k_proj.bias",)

#: Cases in which transformers lets padding before a text into its convolutions, by the bias of their products.
LEAKING = ("lfm2_biased",)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_parity(tmp_path: Path, name: str) -> None:
    parity = parity_of(make_tiny(name), tmp_path, "cpu")
    if name in LEAKING:
        parity.check_batches()
    else:
        parity.check()
    parity.check_sensitivity(*UNSEEN)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cuda", "tensorrt", "coreml"])
@pytest.mark.parametrize("name", CASES)
def test_parity_on_devices(tmp_path: Path, name: str, target: str) -> None:
    parity = parity_of(make_tiny(name), tmp_path, target)
    parity.check_batches()
    parity.check_company()


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_size(tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject) -> None:
    """Grouped queries from 1:1 to 8:1, widths of heads from 2 to 512, odd vocabularies."""
    kv_heads, group = data.draw(st.integers(1, 2), "key heads"), data.draw(st.sampled_from([1, 2, 3, 8]), "group")
    heads, half = kv_heads * group, data.draw(st.sampled_from([1, 3, 4, 32, 256]), "half a head")
    changes: dict[str, Any] = {
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "num_global_key_value_heads": 1,
        "hidden_size": heads * data.draw(st.integers(1, 5), "share of a head"),
        "head_dim": 2 * half,
        "global_head_dim": 2 * data.draw(st.sampled_from([1, 4, 64]), "half a global head"),
        "intermediate_size": data.draw(st.integers(1, 40), "inner"),
        "vocab_size": data.draw(st.integers(20, 90), "vocabulary"),
    }
    if CASES[name].name == "Qwen2":
        del changes["head_dim"]
        changes["hidden_size"] = heads * 2 * data.draw(st.integers(1, 5), "half a head")
    if name.startswith("lfm2"):
        changes["intermediate_size"] += 2  # the class takes two thirds of it
    if not name.startswith("embedding"):
        del changes["global_head_dim"], changes["num_global_key_value_heads"]
    folder = tmp_path_factory.mktemp(name)
    parity = parity_of(make_tiny(name, **changes), folder, "cpu")
    rows = parity.rows([1, 2, 7, 19, 40])
    ours, theirs = parity.fletcher(rows), parity.huggingface(rows)
    exact = dataclasses.replace(parity, model=parity.model.double(), known={}).huggingface(rows)
    # A norm over two elements that nearly vanish multiplies rounding: float32 of transformers is then as far from float64.
    bound = 2e-5 + _largest_difference(theirs, exact)
    assert _largest_difference(ours, exact) <= bound


def _largest_difference(vectors: np.ndarray, exact: np.ndarray) -> float:
    """Return the largest difference of an element, where each pooling's part of the exact vectors has L2 norm 1.

    The mean of states that cancel each other has no direction; it counts as a hundredth of the longest part.
    """
    parts, right = (side.reshape(len(side), 4, -1) for side in (vectors, exact))
    norms = np.linalg.norm(right, axis=-1, keepdims=True)
    return float(np.abs((parts - right) / np.maximum(norms, norms.max() / 100)).max())


@pytest.mark.parametrize("tied", [False, True])
def test_a_language_model_saved_with_its_head(tmp_path: Path, tied: bool) -> None:
    config = transformers.Qwen3Config(**settings_of("qwen3", tie_word_embeddings=tied))
    model = randomize(transformers.Qwen3ForCausalLM(config))
    tiny = make_tiny("qwen3")
    save_checkpoint(model, tmp_path, tiny.tokens)
    session = load(tmp_path, make_card(tmp_path, tiny.hidden, tiny.longest))
    Parity(model.model, session, tiny.tokens, tiny.vocabulary, tiny.longest).check_batches()


def test_from_a_folder_to_vectors(tmp_path: Path) -> None:
    """Compare `export` and `Encoder.embed` with the last token's state, with the tokenizer and L2 normalization."""
    tiny = make_tiny("qwen3_window")
    folder = tiny.save(tmp_path / "checkpoint")
    export(str(folder), tmp_path / "artifact", pooling="lasttoken", max_tokens=30)
    words = [[3, 7, 7], [], [50], list(range(20))]
    first = len(tiny.tokens.names)
    expected = []
    for numbers in words:
        ids = [tiny.tokens.start, *(first + number for number in numbers), tiny.tokens.end]
        with torch.no_grad():
            expected.append(tiny.model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1].numpy())
    with Encoder.load(tmp_path / "artifact", workers=1) as encoder:
        result = encoder.embed([" ".join(f"w{number}" for number in numbers) for numbers in words])
    np.testing.assert_allclose(result.vectors, np.stack(expected), rtol=0, atol=1e-5)
