"""Preparation of the peer of Fletcher's OpenVINO variants: sentence-transformers' static INT8 for OpenVINO.

    PYTHON_OF_PEERS benchmarks/openvino/prepare.py CHECKPOINT FOLDER TEXTS

It runs in the peers' environment (sentence-transformers with optimum-intel and nncf, which need an older transformers
than Fletcher's own). TEXTS is a file with one calibration text per line, in place of SST-2, which sentence-transformers
would fetch from the hub. FOLDER becomes a copy of the checkpoint with `openvino/openvino_model_qint8_quantized.xml`.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path


def main(checkpoint: Path, folder: Path, texts: Path) -> None:
    """Write the model with the call that sentence-transformers documents, and its default configuration."""
    from optimum.intel import OVQuantizationConfig
    from sentence_transformers import SentenceTransformer, export_static_quantized_openvino_model

    shutil.copytree(checkpoint, folder, dirs_exist_ok=True)
    model = SentenceTransformer(str(folder), device="cpu", backend="openvino", model_kwargs={"export": True})
    lines = [line for line in texts.read_text(encoding="utf-8").splitlines() if line.strip()]
    with tempfile.TemporaryDirectory() as data:
        rows = "".join(json.dumps({"text": line}) + "\n" for line in lines)
        (Path(data) / "train.jsonl").write_text(rows, encoding="utf-8")
        export_static_quantized_openvino_model(
            model,
            OVQuantizationConfig(num_samples=min(300, len(lines))),
            str(folder),
            dataset_name=data,
            dataset_config_name="default",
            dataset_split="train",
            column_name="text",
        )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
