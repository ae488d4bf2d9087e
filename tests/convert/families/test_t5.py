"""T5's encoder compared with transformers: both feed-forward parts, wide heads, far distances; and sentence-t5's stack."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from transformers import MT5Config, MT5EncoderModel, T5Config, T5EncoderModel, T5ForConditionalGeneration

from fletcher.convert.export.export import export
from fletcher.convert.texts import SENTENCES
from fletcher.runtime import Encoder
from fletcher.runtime.errors import CheckpointError

from ..verify.parity import Parity, SpecialTokens, load, make_card, randomize, save_checkpoint
from .tiny import edit_config, rename_tensors

TOKENS = SpecialTokens(("<pad>", "</s>", "<unk>"), start=1, end=1, pad=0)
SIZES: dict[str, Any] = {"vocab_size": 90, "d_model": 48, "d_kv": 20, "num_heads": 3, "num_layers": 3, "d_ff": 56}


def parity(model: Any, folder: Path, longest: int = 40, **options: Any) -> Parity:
    return Parity.of(model, folder, longest, TOKENS, absolute=False, **options)


@pytest.mark.parametrize("activation", ["relu", "gated-gelu", "gated-silu"])
@pytest.mark.parametrize("far", [False, True])
def test_parity(tmp_path: Path, activation: str, far: bool) -> None:
    """Distances beyond the largest one share a bucket: the second model's is short."""
    buckets: dict[str, Any] = (
        {"relative_attention_num_buckets": 12, "relative_attention_max_distance": 20} if far else {}
    )
    config = T5Config(**SIZES, feed_forward_proj=activation, **buckets)
    compared = parity(randomize(T5EncoderModel(config), std=0.1), tmp_path, 300 if far else 40)
    compared.check()
    if not far:
        compared.check_sensitivity()


def test_mt5_is_t5(tmp_path: Path) -> None:
    parity(randomize(MT5EncoderModel(MT5Config(**SIZES)), std=0.1), tmp_path).check_batches()


def test_the_decoder_is_left_out(tmp_path: Path) -> None:
    model = randomize(T5ForConditionalGeneration(T5Config(**SIZES)), std=0.1)
    parity(model, tmp_path, encoder=model.encoder).check_batches()


def test_the_table_under_its_other_name(tmp_path: Path) -> None:
    model = randomize(T5EncoderModel(T5Config(**SIZES)), std=0.1)
    reference = parity(model, tmp_path / "a")
    folder = save_checkpoint(model, tmp_path / "b", TOKENS)
    rename_tensors(folder, lambda name: "encoder.embed_tokens.weight" if name == "shared.weight" else name)
    session = load(folder, make_card(folder, SIZES["d_model"], 40))
    rows = reference.rows([9, 3])
    vectors = Parity(model, session, TOKENS, SIZES["vocab_size"], 40).fletcher(rows)
    np.testing.assert_allclose(vectors, reference.huggingface(rows), rtol=0, atol=1e-5)


@pytest.mark.parametrize("value", ["gelu-gated", "gated-elu", "gated-gated-gelu", 5])
def test_activations_that_are_not_authored_are_refused(tmp_path: Path, value: Any) -> None:
    folder = save_checkpoint(T5EncoderModel(T5Config(**SIZES)), tmp_path, TOKENS)
    edit_config(folder, feed_forward_proj=value)
    with pytest.raises(CheckpointError, match="feed_forward_proj"):
        load(folder, make_card(folder, SIZES["d_model"], 40))


def test_a_stack_like_sentence_t5(tmp_path: Path) -> None:
    """sentence-t5 and gtr are T5, the mean, a Dense without bias and activation, and L2 normalization."""
    letters = sorted({char for text in SENTENCES for char in text if not char.isspace()})
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -10.0), ("▁", -2.0), *((char, -3.0) for char in letters)]
    tokenizer = transformers.T5Tokenizer(vocab=vocabulary, extra_ids=3)
    tokenizer.save_pretrained(tmp_path / "t5")
    sizes = SIZES | {"vocab_size": len(tokenizer), "n_positions": 10}
    randomize(T5EncoderModel(T5Config(**sizes))).save_pretrained(tmp_path / "t5")
    encoder = Transformer(str(tmp_path / "t5"), max_seq_length=32)
    dense = Dense(SIZES["d_model"], 24, bias=False, activation_function=torch.nn.Identity())
    modules = [encoder, Pooling(SIZES["d_model"], "mean"), dense, Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "model"))
    texts = ["a text", *SENTENCES[:8]]
    expected = SentenceTransformer(str(tmp_path / "model"), device="cpu").encode(texts)
    exported = export(str(tmp_path / "model"), tmp_path / "artifact", verify=True)
    assert (exported.status, exported.max_tokens, exported.dimension) == ("verified", 32, 24)
    with Encoder.load(tmp_path / "artifact", workers=1) as loaded:
        np.testing.assert_allclose(loaded.embed(texts).vectors, expected, rtol=0, atol=2e-5)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["n_positions"] == 10
