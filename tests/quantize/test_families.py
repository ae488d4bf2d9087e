"""Recipes on families unlike BERT: language models, experts, which may get no token, scores by content and distance, and T5.

The page docs/howto/quantization.md has a table of these families and recipes, which is compared with this one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer

from fletcher.convert.export.export import export
from fletcher.convert.texts import SENTENCES
from fletcher.quantize.graph.matrices import matrices
from fletcher.quantize.quantized_artifact import quantize
from fletcher.quantize.recipe import load_recipe
from fletcher.runtime import Encoder
from fletcher.runtime.errors import InputError

from ..convert.families.decoders.models import make_tiny
from ..convert.families.rotary.test_nomic_bert import EXPERTS, HIDDEN, VOCABULARY, Nomic
from ..convert.layers.models import export_mean, save_artifact
from ..convert.verify.parity import BERT_TOKENS, SpecialTokens, randomize, save_checkpoint, save_tokenizer

pytestmark = pytest.mark.slow

#: Smallest cosine with float32, of random weights, by recipe.
RECIPES = {"w8": 0.998, "w4": 0.9, "int8-per-token": 0.99, "int8-dynamic": 0.9}

#: The same of families whose random weights amplify errors, where it is another one.
OTHERS = {(family, "w8"): 0.997 for family in ("embedding_gemma2", "eurobert", "mistral")}


def _experts(folder: Path) -> Path:
    checkpoint = Nomic(**EXPERTS, n_positions=100).save(folder / "checkpoint")
    save_tokenizer(checkpoint, VOCABULARY)
    return export_mean(checkpoint, HIDDEN)


def _t5(folder: Path) -> Path:
    sizes: dict[str, Any] = {"vocab_size": 120, "d_model": 48, "d_kv": 12, "num_heads": 4, "num_layers": 3, "d_ff": 56}
    config = transformers.T5Config(**sizes, feed_forward_proj="gated-gelu")
    tokens = SpecialTokens(("<pad>", "</s>", "<unk>"), start=1, end=1, pad=0)
    checkpoint = save_checkpoint(randomize(transformers.T5EncoderModel(config), std=0.1), folder / "checkpoint", tokens)
    return export_mean(checkpoint, 48)


def _eurobert(folder: Path) -> Path:
    model = make_tiny("eurobert", max_position_embeddings=100, vocab_size=120).model
    return export_mean(save_checkpoint(model, folder / "checkpoint", BERT_TOKENS), 48)


def _of(family: str) -> Callable[[Path], Path]:
    return lambda folder: save_artifact(family, folder)


#: By name: function that writes an artifact, and patterns of matrices that it must have.
FAMILIES: Mapping[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    "deberta-v2": (_of("deberta-v2"), ("layers.0.attention.qkv",)),
    "convbert": (_of("convbert"), ("layers.0.attention.qkv", "layers.2.feed_forward.down")),
    "longformer": (_of("longformer"), ("layers.0.attention.qkv",)),
    "gemma3": (_of("gemma3_both"), ("layers.0.attention.qkv", "layers.2.feed_forward.gate")),
    "embedding_gemma2": (_of("embedding_gemma2"), ("layers.0.embedding_gate.gate",)),
    "llama": (_of("llama"), ("layers.0.attention.qkv", "layers.2.feed_forward.up")),
    "mistral": (_of("mistral"), ("layers.0.attention.output",)),
    "qwen3": (_of("qwen3"), ("layers.0.attention.qkv", "layers.2.feed_forward.gate")),
    "eurobert": (_eurobert, ("layers.0.attention.qkv",)),
    "t5": (_t5, ("layers.0.attention.qkv",)),
    "experts": (_experts, ("layers.1.feed_forward.experts.4.up", "layers.1.feed_forward.experts.0.down")),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_of_each_recipe_are_near_float32(tmp_path: Path, family: str) -> None:
    make, names = FAMILIES[family]
    artifact = make(tmp_path)
    found = {matrix.name for matrix in matrices(artifact)}
    assert found.issuperset(names), sorted(found)
    # Texts of one token, to which most experts give none, and long ones.
    texts = [
        "w5",
        "w9 w10",
        *(" ".join(f"w{(7 * i + j) % 50}" for j in range(i)) for i in range(1, 40)),
        *SENTENCES[:3],
    ]
    reference = _vectors(artifact, texts)
    for name, limit in RECIPES.items():
        limit = OTHERS.get((family, name), limit)
        path = tmp_path / name
        quantize(artifact, path, load_recipe(name), texts=texts)
        vectors = _vectors(path, texts)
        assert np.sum(vectors * reference, axis=1).min() >= limit, name
        if name != "int8-per-token":
            continue  # kernels of other recipes, or their scales, depend on the batch
        alone = np.concatenate([_vectors(path, [text]) for text in texts[:4]])
        np.testing.assert_allclose(np.sum(alone * vectors[:4], axis=1), 1, atol=1e-4)


def test_a_static_embedding_has_only_its_table(tmp_path: Path, tiny_checkpoint: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_checkpoint / "tokenizer.json"))
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=32)], device="cpu")
    model.save(str(tmp_path / "model"))
    export(str(tmp_path / "model"), tmp_path / "artifact")
    assert [matrix.name for matrix in matrices(tmp_path / "artifact")] == ["embeddings.word"]
    expected = model.encode(list(SENTENCES), normalize_embeddings=True)
    for name in ("int8-per-token", "w8", "int8-dynamic"):
        quantize(tmp_path / "artifact", tmp_path / name, load_recipe(name), texts=SENTENCES)
        vectors = _vectors(tmp_path / name, list(SENTENCES))
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        assert np.sum(vectors * expected, axis=1).min() >= 0.999
    with pytest.raises(InputError, match=r"'\*\.attention\.\*', which matches no matrix"):
        quantize(tmp_path / "artifact", tmp_path / "w4", load_recipe("w4"), texts=SENTENCES)


def _vectors(artifact: Path, texts: list[str]) -> Any:
    with Encoder.load(artifact, workers=1, provider="mlas") as encoder:
        return encoder.embed(texts).vectors
