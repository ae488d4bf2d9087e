"""What every execution provider looks like to the rest of the runtime, and how one is opened."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from ..artifact.folder import Artifact
from ..artifact.manifest import Variant
from ..encodings import Encodings
from ..errors import ArtifactError, MissingPackageError, ProviderError
from ..machine.machine import this_machine
from ..providers.cpu_features import check_instructions
from ..providers.registry import PROVIDERS, check_provider, require

__all__ = ["FALLBACK", "Opened", "Session", "open_session", "open_with_fallback"]

logger = logging.getLogger("fletcher.runtime.session.session")

#: What every machine that has ONNX Runtime can run.
FALLBACK = "mlas"


class Session(Protocol):
    """A graph that is loaded and runs. Safe to call from several threads at once."""

    @property
    def provider(self) -> str:
        """Where it really runs, as the provider's own name."""
        ...

    def run(self, batch: Encodings, output: str | None = None) -> NDArray[np.float32]:
        """Computes one batch; the calling thread waits without the GIL.

        Args:
            batch: ragged token ids of at least one text.
            output: which of the graph's outputs; None is the first.

        Returns:
            float32, (n, dimension) in the order of the batch, or (tokens, …) where the output has a row a token.
        """
        ...

    def close(self) -> None:
        """Gives the memory back; the session is unusable afterwards."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Opened:
    """A session, and whether it is the one that was wanted.

    Attributes:
        session: what runs.
        variant: which graph it is.
        provider: which of `PROVIDERS` opened it.
        fallback: why it is another provider's than the wanted one's; None if it is that one's.
    """

    session: Session
    variant: Variant
    provider: str
    fallback: str | None = None


def open_session(
    artifact: Artifact,
    variant: Variant,
    *,
    provider: str = FALLBACK,
    threads: int = 1,
    workers: int = 1,
    allow_cuda: bool = False,
) -> Session:
    """Loads a variant on a provider.

    Args:
        artifact: where the graph lies.
        variant: which graph.
        provider: a name of `PROVIDERS`.
        threads: processor threads inside one run.
        workers: runs that may be under way at once.
        allow_cuda: whether CUDA may run a graph that TensorRT cannot; the session's `fallback` says why.

    Raises:
        InputError: there is no such provider.
        MissingPackageError: the provider's package is not installed.
        ProviderError: the package is too old, the processor lacks the provider's arithmetic or the variant's instruction
            set, or the provider does not run this target or refuses the graph.
        ArtifactError: the graph file cannot be loaded.
    """
    check_provider(provider)
    chosen = PROVIDERS[provider]
    if variant.target not in chosen.targets:
        raise ProviderError(
            f"the variant {variant.name} is for the target {variant.target}, which {provider} does not run: "
            f"load a variant for {' or '.join(chosen.targets)}"
        )
    require(chosen, this_machine())
    check_instructions(artifact, variant, this_machine())
    graph = Path(artifact.path / variant.file)
    if chosen.on_gpu:
        from ..fleet.all_gpus import open_gpus

        return open_gpus(artifact, variant, provider=provider, allow_cuda=allow_cuda)
    if chosen.package == "openvino":
        from ..providers.openvino.session import OpenVinoSession

        return OpenVinoSession(graph, precision=chosen.precision or "fp32", threads=threads, workers=workers)
    from ..providers.mlas.session import MlasSession

    return MlasSession(graph, threads=threads)


def open_with_fallback(
    artifact: Artifact, variant: Variant, *, provider: str, threads: int, workers: int, allowed: bool
) -> Opened:
    """Loads a variant on a provider, or on ONNX Runtime's own if that fails and it is allowed.

    What runs on a GPU alone has the artifact's first cpu variant stand in for it.

    Args:
        artifact, variant, provider, threads, workers: as for `open_session`.
        allowed: whether another provider may run the graph. It is logged, and the caller shows it.

    Raises:
        As `open_session`, for the wanted provider or for the fallback.
    """
    try:
        session = open_session(
            artifact, variant, provider=provider, threads=threads, workers=workers, allow_cuda=allowed
        )
        return Opened(session, variant, provider, getattr(session, "fallback", None))
    except (MissingPackageError, ProviderError, ArtifactError) as error:
        stand_in = artifact.variant() if variant.target != "cpu" else variant
        if not allowed or provider == FALLBACK or stand_in.target != "cpu":
            raise
        reason = f"{provider} was wanted, {FALLBACK} runs: {error}"
        logger.warning("fallback", extra={"fields": {"variant": stand_in.name, "reason": reason}})
    return Opened(open_session(artifact, stand_in, threads=threads, workers=workers), stand_in, FALLBACK, reason)
