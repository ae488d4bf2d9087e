"""Fixtures: a tiny checkpoint, and a hub that answers huggingface_hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from .fake_hub import FakeHub

# Files that all-MiniLM-L6-v2 publishes beside its weights, without the keys that these tests do not use.
MINILM_FILES: dict[str, object] = {
    "config.json": {
        "architectures": ["BertModel"],
        "hidden_size": 384,
        "max_position_embeddings": 512,
        "model_type": "bert",
        "num_attention_heads": 12,
        "num_hidden_layers": 6,
        "pad_token_id": 0,
        "vocab_size": 30522,
    },
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ],
    "1_Pooling/config.json": {
        "word_embedding_dimension": 384,
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": True,
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
    },
    "sentence_bert_config.json": {"max_seq_length": 256, "do_lower_case": False},
    "config_sentence_transformers.json": {"__version__": {"sentence_transformers": "2.0.0"}},
    "tokenizer_config.json": {"do_lower_case": True, "model_max_length": 512, "tokenizer_class": "BertTokenizer"},
}


def write_files(folder: Path, files: dict[str, object]) -> Path:
    """Write files into a folder: bytes unchanged, other values as JSON."""
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return folder


@pytest.fixture
def minilm(tmp_path: Path) -> Path:
    """Return a folder with MiniLM's published configs and weights of a few numbers."""
    folder = write_files(tmp_path / "minilm", MINILM_FILES)
    (folder / "tokenizer.json").write_text("{}")
    save_file({"embeddings.word_embeddings.weight": np.arange(12, dtype=np.float32)}, folder / "model.safetensors")
    return folder


@pytest.fixture
def hub(minilm: Path) -> Iterator[FakeHub]:
    with FakeHub() as server:
        server.add("org/minilm", minilm)
        yield server
