"""Preparation of two checkpoints for `fletcher-serve bench`: one with an ONNX graph, which peers load, and a tiny one.

    PYTHON_OF_PEERS benchmarks/cpu/prepare.py CHECKPOINT FOLDER

It runs in the peers' environment (sentence-transformers with optimum-onnx and optimum-intel, which need an older
transformers than Fletcher's own). FOLDER gets `model`, a copy of the checkpoint with `onnx/model.onnx`, and
`bert-tiny`, a random model of bert-tiny's dimensions (2 layers, 128 wide) with the same tokenizer.
docs/reference/benchmarks.md has the commands.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path


def main(checkpoint: Path, folder: Path) -> None:
    """Write both checkpoints."""
    import torch
    import transformers
    from sentence_transformers import SentenceTransformer

    shutil.copytree(checkpoint, folder / "model", dirs_exist_ok=True)
    exported = SentenceTransformer(str(checkpoint), device="cpu", backend="onnx", model_kwargs={"export": True})
    exported.save_pretrained(str(folder / "exported"))
    shutil.copytree(folder / "exported" / "onnx", folder / "model" / "onnx", dirs_exist_ok=True)
    shutil.rmtree(folder / "exported")

    tiny = folder / "bert-tiny"
    shutil.copytree(
        checkpoint, tiny, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors", "onnx", "openvino")
    )
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512, max_position_embeddings=512
    )
    transformers.BertModel(config).eval().save_pretrained(tiny)
    pooling = tiny / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps(json.loads(pooling.read_text()) | {"word_embedding_dimension": 128}))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
