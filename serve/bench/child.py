"""Child process of a benchmark: it loads a participant, and answers commands (a line of JSON each) until its input ends.

This file does not import Fletcher: a peer may run in another environment.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol


class Subject(Protocol):
    """Library that is measured."""

    versions: str

    def embed(self, texts: Sequence[str]) -> Any:
        """Return the vectors of texts, (n, dimension)."""

    def set_batch_size(self, size: int) -> None:
        """Set the number of texts in a batch. Participants that choose it themselves ignore it."""


def serve(load: Callable[[], Subject]) -> None:
    """Load a participant, report its versions, and answer commands."""
    # Standard output is for answers, and libraries print to it: redirect their output to standard error.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**fields: Any) -> None:
        answers.write(json.dumps(fields) + "\n")
        answers.flush()

    try:
        subject: Any = load()
    except Exception as error:  # noqa: BLE001  the parent reports any error
        answer(error=f"{type(error).__name__}: {str(error)[:500]}")
        return
    answer(versions=subject.versions)
    texts: list[str] = []
    for line in sys.stdin:
        command = json.loads(line)
        try:
            if command["do"] == "texts":
                texts = command["texts"]
                answer(texts=len(texts))
            elif command["do"] == "batch_size":
                subject.set_batch_size(command["size"])
                answer(size=command["size"])
            elif command["do"] == "embed":
                answer(**_embed(subject, texts[: command["count"]]))
            elif command["do"] == "latency":
                answer(seconds=[_latency(subject, text) for text in command["texts"]])
            elif command["do"] == "vectors":
                vectors = subject.embed(command["texts"])
                data = base64.b64encode(vectors.astype("<f4").tobytes()).decode()
                answer(shape=list(vectors.shape), data=data)
            elif command["do"] == "accuracy":
                answer(min_cosine=subject.accuracy())
            elif command["do"] == "usage":
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                answer(peak_rss=peak if sys.platform == "darwin" else peak * 1024)
        except Exception as error:  # noqa: BLE001  as above
            answer(error=f"{type(error).__name__}: {str(error)[:500]}")


def _embed(subject: Any, texts: Sequence[str]) -> dict[str, Any]:
    processor = time.process_time()
    started = time.perf_counter()
    subject.embed(texts)
    seconds = time.perf_counter() - started
    measured = {"seconds": seconds, "processor_seconds": time.process_time() - processor, "texts": len(texts)}
    return measured | (subject.stages() if hasattr(subject, "stages") else {})


def _latency(subject: Subject, text: str) -> float:
    started = time.perf_counter()
    subject.embed([text])
    return time.perf_counter() - started


# Peers ------------------------------------------------------------------------------------------------------------------


class SentenceTransformers:
    """sentence-transformers on the CPU, with one of its backends."""

    def __init__(self, checkpoint: str, backend: Literal["torch", "onnx", "openvino"], **options: Any) -> None:
        import sentence_transformers

        if backend != "torch":
            options = {"model_kwargs": {"export": True, **options}}
        with contextlib.redirect_stdout(sys.stderr):
            self._model = sentence_transformers.SentenceTransformer(
                checkpoint, device="cpu", backend=backend, **options
            )
        self._size = 32
        engines = {"torch": "torch", "onnx": "onnxruntime", "openvino": "openvino"}
        self.versions = _versions("sentence-transformers", engines[backend])

    def set_batch_size(self, size: int) -> None:
        self._size = size

    def embed(self, texts: Sequence[str]) -> Any:
        return self._model.encode(list(texts), batch_size=self._size, show_progress_bar=False)


class FastEmbed:
    """fastembed with the checkpoint's ONNX graph, which the ONNX backend of sentence-transformers exports."""

    def __init__(self, checkpoint: str) -> None:
        import tempfile
        from pathlib import Path

        folder = Path(checkpoint)
        if not (folder / "onnx" / "model.onnx").is_file() and not (folder / "model.onnx").is_file():
            raise FileNotFoundError(f"{folder} has no model.onnx, and fastembed does not convert models")
        import fastembed
        from fastembed.common.model_description import ModelSource, PoolingType

        file = "onnx/model.onnx" if (folder / "onnx" / "model.onnx").is_file() else "model.onnx"
        width = json.loads((folder / "config.json").read_text())["hidden_size"]
        fastembed.TextEmbedding.add_custom_model(
            model="local",
            pooling=PoolingType.MEAN,
            normalization=True,
            sources=ModelSource(hf="local/local"),
            dim=width,
            model_file=file,
        )
        self._model = fastembed.TextEmbedding("local", specific_model_path=str(folder), cache_dir=tempfile.mkdtemp())
        self._size = 32
        self.versions = _versions("fastembed", "onnxruntime")

    def set_batch_size(self, size: int) -> None:
        self._size = size

    def embed(self, texts: Sequence[str]) -> Any:
        import numpy as np

        return np.array(list(self._model.embed(list(texts), batch_size=self._size)))


PEERS: dict[str, Callable[[str], Subject]] = {
    "sentence-transformers": lambda checkpoint: SentenceTransformers(checkpoint, "torch"),
    "sentence-transformers-onnx": lambda checkpoint: SentenceTransformers(
        checkpoint, "onnx", provider="CPUExecutionProvider"
    ),
    # OpenVINO uses bf16 by default if the processor has it.
    "sentence-transformers-openvino": lambda checkpoint: SentenceTransformers(checkpoint, "openvino"),
    "sentence-transformers-openvino-f32": lambda checkpoint: SentenceTransformers(
        checkpoint, "openvino", ov_config={"INFERENCE_PRECISION_HINT": "f32"}
    ),
    # Static INT8 of sentence-transformers, written by benchmarks/openvino/prepare.py.
    "sentence-transformers-openvino-qint8": lambda checkpoint: SentenceTransformers(
        checkpoint, "openvino", export=False, file_name="openvino/openvino_model_qint8_quantized.xml"
    ),
    "fastembed": FastEmbed,
}


def _versions(*packages: str) -> str:
    from importlib import metadata

    return ", ".join(f"{package} {metadata.version(package)}" for package in packages)


if __name__ == "__main__":
    name, folder = sys.argv[1:]
    serve(lambda: PEERS[name](folder))
