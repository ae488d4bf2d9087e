"""`MLAS`: ONNX Runtime's CPU provider, which every machine with ONNX Runtime has."""

from __future__ import annotations

from ...artifact.folder import Artifact
from ...artifact.manifest import Variant
from ...artifact.memory_shape import MemoryFactors
from ...session.session import Session
from ..processor import TOKEN_BUDGET, shapes_of_one_pool
from ..provider import MemoryUse, Needs, OpenOptions, Provider, Tuning
from .session import MlasSession

__all__ = ["MLAS"]


def _open(artifact: Artifact, variant: Variant, options: OpenOptions) -> Session:
    return MlasSession(artifact.path / variant.file, threads=options.threads)


MLAS = Provider(
    name="mlas",
    title=MlasSession.provider,
    targets=("cpu",),
    device_kind="cpu",
    needs=Needs(package="onnxruntime", oldest=(1, 27), extra="cpu"),
    open=_open,
    memory=MemoryUse(factors=MemoryFactors(1.0, 1.0, 1.0, 1.0)),
    tuning=Tuning(shapes=shapes_of_one_pool, token_budget=TOKEN_BUDGET),
    engines=("onnxruntime", "onnxruntime-gpu"),
)
