"""Functions that open a session of a variant on a provider, or on the fallback if it is allowed."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from ..artifact.folder import Artifact
from ..artifact.graph.read import check_graphs
from ..artifact.manifest import Variant
from ..errors import ArtifactError, MissingPackageError, ProviderError
from ..machine.machine import this_machine
from ..session.session import Session
from .cpu_features import check_instructions
from .mlas.provider import MLAS
from .needs import require
from .provider import OpenOptions
from .selection import find_provider

__all__ = ["FALLBACK", "Opened", "open_session", "open_with_fallback"]

logger = logging.getLogger("fletcher.runtime.providers.opening")

#: Name of the provider that every machine with ONNX Runtime has.
FALLBACK = MLAS.name


@dataclass(frozen=True, slots=True)
class Opened:
    """`Opened`: open session, perhaps on the fallback.

    Attributes:
        session: the session.
        variant: variant that it runs.
        provider: name of the provider that opened it.
        fallback: reason why another provider runs than the requested one; None if the requested one runs.
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
    allow_fallback: bool = False,
) -> Session:
    """Load a variant on a provider. Its graph is checked first; see `check_graph`.

    Args:
        artifact: artifact that contains the graph.
        variant: variant of the graph.
        provider: name of a provider.
        threads: processor threads inside one run.
        workers: number of runs that may be in progress at once.
        allow_fallback: whether another provider of the same device may run the graph. The session's `fallback` then has the
            reason.

    Raises:
        OptionError: there is no such provider.
        MissingPackageError: the provider's package is not installed.
        ProviderError: the package is too old, the machine lacks a requirement of the provider or an instruction set of the
            variant, or the provider does not run the target or rejects the graph.
        ArtifactError: the graph file cannot be loaded, or is not one that Fletcher writes.
        ChecksumError: the graph file has another sha256 than the manifest states.
    """
    chosen = find_provider(provider)
    if variant.target not in chosen.targets:
        raise ProviderError(
            f"the variant {variant.name} is for the target {variant.target}, which {provider} does not run: "
            f"load a variant for {' or '.join(chosen.targets)}"
        )
    require(chosen, this_machine())
    check_instructions(artifact, variant, this_machine())
    check_graphs(artifact, variant)
    return chosen.open(artifact, variant, OpenOptions(threads=threads, workers=workers, allow_fallback=allow_fallback))


def open_with_fallback(
    artifact: Artifact, variant: Variant, *, provider: str, threads: int, workers: int, allowed: bool
) -> Opened:
    """Load a variant on a provider, or on ONNX Runtime's CPU provider if that fails and it is allowed.

    If the fallback does not run the variant, the artifact's first variant for the processor replaces it.

    Args:
        artifact, variant, provider, threads, workers: see `open_session`.
        allowed: whether another provider may run the graph. A fallback is logged, and the caller must report it.

    Raises:
        FletcherError: any error of `open_session`, for the requested provider or for the fallback.
    """
    try:
        session = open_session(
            artifact, variant, provider=provider, threads=threads, workers=workers, allow_fallback=allowed
        )
        return Opened(session, variant, provider, session.fallback)
    except (MissingPackageError, ProviderError, ArtifactError) as error:
        replacement = variant if variant.target in MLAS.targets else artifact.variant(targets=MLAS.targets)
        if not allowed or provider == FALLBACK or replacement.target not in MLAS.targets:
            raise
        reason = f"{provider} was requested, {FALLBACK} runs: {error}"
        logger.warning("fallback", extra={"fields": {"variant": replacement.name, "reason": reason}})
    session = open_session(artifact, replacement, threads=threads, workers=workers)
    return Opened(session, replacement, FALLBACK, reason)
