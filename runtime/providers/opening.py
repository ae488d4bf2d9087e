"""Opening a session of a variant on a provider, and on the fallback where that is allowed."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from ..artifact.folder import Artifact
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

#: The provider of every machine that has ONNX Runtime.
FALLBACK = MLAS.name


@dataclass(frozen=True, slots=True)
class Opened:
    """A session that was opened, perhaps on the fallback.

    Attributes:
        session: the session.
        variant: its graph.
        provider: name of the provider that opened it.
        fallback: reason why another provider runs than the requested one; None if it is that one.
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
    """Load a variant on a provider.

    Args:
        artifact: where the graph lies.
        variant: which graph.
        provider: name of a provider.
        threads: processor threads inside one run.
        workers: runs that may be under way at once.
        allow_fallback: whether another provider of the same device may run the graph; the session's `fallback` says why.

    Raises:
        InputError: there is no such provider.
        MissingPackageError: the provider's package is not installed.
        ProviderError: the package is too old, the machine lacks what the provider needs or the variant's instruction set, or
            the provider does not run this target or refuses the graph.
        ArtifactError: the graph file cannot be loaded.
    """
    chosen = find_provider(provider)
    if variant.target not in chosen.targets:
        raise ProviderError(
            f"the variant {variant.name} is for the target {variant.target}, which {provider} does not run: "
            f"load a variant for {' or '.join(chosen.targets)}"
        )
    require(chosen, this_machine())
    check_instructions(artifact, variant, this_machine())
    return chosen.open(artifact, variant, OpenOptions(threads=threads, workers=workers, allow_fallback=allow_fallback))


def open_with_fallback(
    artifact: Artifact, variant: Variant, *, provider: str, threads: int, workers: int, allowed: bool
) -> Opened:
    """Load a variant on a provider, or on ONNX Runtime's CPU provider if that fails and it is allowed.

    The artifact's first variant for the processor replaces a variant that the fallback does not run.

    Args:
        artifact, variant, provider, threads, workers: as for `open_session`.
        allowed: whether another provider may run the graph. It is logged, and the caller shows it.

    Raises:
        As `open_session`, for the requested provider or for the fallback.
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
        reason = f"{provider} was wanted, {FALLBACK} runs: {error}"
        logger.warning("fallback", extra={"fields": {"variant": replacement.name, "reason": reason}})
    session = open_session(artifact, replacement, threads=threads, workers=workers)
    return Opened(session, replacement, FALLBACK, reason)
