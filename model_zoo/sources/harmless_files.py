"""Files that people keep beside a checkpoint, and that neither transformers nor sentence-transformers reads for a vector.

`convert/checkpoint/files.py` has the other files: those that are read, and those that are refused. A new pattern belongs
here only if no reader of a text model opens such a file.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

__all__ = ["HARMLESS_FILES", "is_harmless"]

#: Patterns of names, by kind.
HARMLESS_FILES: dict[str, tuple[str, ...]] = {
    "documentation": (
        *("*.md", "README*", "LICENSE*", "LICENCE*", "NOTICE*", "COPYING*", "CITATION*", "MODEL_CARD*", "AUTHORS*"),
        *("*.pdf", "*.html", "*.ipynb", "*.bib", "*.rst"),
    ),
    "images": ("*.png", "*.jpg", "*.jpeg", "*.gif", "*.svg", "*.webp"),
    "version control, caches and editors": (".*",),
    # transformers takes model.safetensors where it exists, and Fletcher reads no other weights.
    "weights in other formats": (
        *("*.bin", "*.bin.index.json", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.h5", "*.h5.index.json"),
        *("*.msgpack", "*.msgpack.index.json", "*.ot", "*.gguf", "*.ggml", "*.tflite", "*.mlmodel", "*.npz", "*.pb"),
        *("*.onnx", "*.onnx_data", "*.onnx.data", "*.ort", "openvino_model*.xml", "ort_config.json"),
    ),
    # Written by transformers' Trainer and sentence-transformers' evaluators; no loader reads them.
    "training and evaluation": (
        *(
            "*_results.json",
            "results.json",
            "eval_*.json",
            "trainer_state.json",
            "training_args.json",
            "train_args.json",
        ),
        *(
            "mteb_*.json",
            "*evaluation*.csv",
            "*.csv",
            "*.tsv",
            "*.log",
            "*.jsonl",
            "*.parquet",
            "*.arrow",
            "*_results.txt",
        ),
        *("events.out.tfevents.*", "*.zip", "*.tar.gz", "*.sh", "*.yaml", "*.yml", "*.toml", "requirements*.txt"),
        # Published beside sentence-transformers/all-*.
        *("data_config.json", "train_script.py"),
    ),
    # https://huggingface.co/docs/inference-endpoints/guides/custom_handler: read by that service alone.
    "services": ("handler.py",),
    "marks of a Python package that carries the checkpoint": ("__init__.py", "py.typed"),
    # Settings of `generate`, which no embedding calls.
    "generation": ("generation_config.json",),
}


def is_harmless(name: str) -> bool:
    """Return whether a file is on the list, by its name without folders."""
    return any(fnmatchcase(name, pattern) for patterns in HARMLESS_FILES.values() for pattern in patterns)
