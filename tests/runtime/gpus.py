"""Descriptions of GPUs and a TensorRT variant for tests without a GPU."""

from __future__ import annotations

from fletcher.model_zoo.card import Accuracy
from fletcher.runtime.artifact.manifest import Profile, TensorInfo, Variant
from fletcher.runtime.machine.gpus import Gpu

H200 = Gpu(0, "NVIDIA H200", 150_000_000_000, (9, 0), "0000:1b:00.0")
RTX_4090 = Gpu(0, "NVIDIA GeForce RTX 4090", 25_000_000_000, (8, 9), "0000:1b:00.0")


def variant_with(inputs: tuple[TensorInfo, ...], profiles: tuple[Profile, ...]) -> Variant:
    """Return a `tensorrt` variant whose files do not exist."""
    return Variant(
        name="tensorrt-fp16",
        target="tensorrt",
        precision="fp16",
        file="tensorrt-fp16.onnx",
        weights="weights.fp16.safetensors",
        inputs=inputs,
        outputs=(TensorInfo("vectors", "float32", ("texts", 4)),),
        tolerance=Accuracy(min_cosine=0.9999),
        profiles=profiles,
    )
