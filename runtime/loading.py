"""Opening the parts of an encoder, as the caller's options and the machine's measurements say."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import msgspec

from fletcher.model_zoo.card import Accuracy

from .artifact.folder import Artifact
from .artifact.manifest import Variant
from .errors import FletcherError, InputError
from .machine.affinity import pinning
from .machine.machine import this_machine
from .memory.budget import MemoryBudget, memory_budget, resident
from .options.load import LoadOptions
from .providers.opening import Opened, open_session, open_with_fallback
from .providers.selection import find_provider
from .providers.worker_layout import WorkerLayout
from .session.session import Session
from .tokenizing.tokenizer import CACHE_BYTES, Tokenizer
from .tuning.settle import settle
from .workers.pool import Workers

__all__ = ["Loaded", "load_parts"]

logger = logging.getLogger("fletcher.runtime.loading")

#: A session for batches that run alone is a second copy of the weights: of the memory, they may be this share.
MODEST_SHARE = 0.05

#: The canary's smallest cosine where a provider was asked for that computes in bfloat16. The worst text of MiniLM's, two
#: special tokens alone, has 0.99991.
REDUCED_COSINE = 0.999


@dataclass(frozen=True, slots=True)
class Loaded:
    """Parts of an encoder.

    Attributes:
        variant: the graph that runs.
        provider: name of the provider that runs it.
        tokenizer: the artifact's.
        workers: with their session.
        fallback: why another provider runs than the one that was wanted, or None.
        reason: why this provider, these workers and this token budget.
        tolerance: how far from the canary the session may be.
    """

    variant: Variant
    provider: str
    tokenizer: Tokenizer
    workers: Workers
    fallback: str | None
    reason: str
    tolerance: Accuracy


def load_parts(artifact: Artifact, variant: Variant, options: LoadOptions) -> Loaded:
    """Open tokenizer and session.

    Raises:
        As `Encoder.load`.
    """
    max_tokens = artifact.manifest.card.max_tokens
    tokenizer = Tokenizer(artifact.tokenizer_file, max_tokens)
    choice = settle(
        artifact,
        variant,
        provider=options.provider,
        workers=options.workers,
        token_budget=options.token_budget,
        min_cosine=options.min_cosine,
        memory_limit=options.memory_limit_bytes,
    )
    layout = choice.layout
    opened = open_with_fallback(
        artifact,
        variant,
        provider=layout.provider,
        threads=layout.threads,
        workers=layout.workers,
        allowed=options.allow_fallback,
    )
    used = _layout_of(opened, layout, variant)
    variant = opened.variant
    try:
        budget = _budget(variant, options, used, max_tokens)
    except BaseException:
        opened.session.close()
        raise
    workers = Workers(
        opened.session,
        variant.outputs,
        name=str(artifact.path),
        alone=_open_alone(artifact, variant, options, choice.alone if opened.fallback is None else None),
        count=used.workers,
        token_budget=used.token_budget,
        budget=budget,
        initializer=pinning(used.workers, this_machine()) if _is_pinned(used) else None,
    )
    tolerance = _tolerance(variant, used, options.min_cosine)
    return Loaded(variant, opened.provider, tokenizer, workers, opened.fallback, choice.reason, tolerance)


def _layout_of(opened: Opened, layout: WorkerLayout, variant: Variant) -> WorkerLayout:
    """Return the layout that the opened session runs in.

    Args:
        opened: the session, perhaps on the fallback. TensorRT that was replaced by CUDA keeps its layout: both fill the same
            GPUs.
        layout: the layout that was settled on.
        variant: the variant that was settled on.
    """
    if opened.provider == layout.provider:
        return layout
    if opened.variant is variant:
        return msgspec.structs.replace(layout, provider=opened.provider)
    return find_provider(opened.provider).default_layout(this_machine())


def _is_pinned(layout: WorkerLayout) -> bool:
    """Return whether workers stay on a NUMA node: those of one thread each that compute on the processor.

    Workers that wait for a GPU are moved near it by the fleet.
    """
    return layout.threads == 1 and find_provider(layout.provider).device_kind == "cpu"


def _open_alone(
    artifact: Artifact, variant: Variant, options: LoadOptions, layout: WorkerLayout | None
) -> Session | None:
    """Open a session for batches that run alone, if that is sooner, no limit was set, and a second copy of the weights is
    nothing to this machine. It is a convenience: what cannot be opened is logged."""
    size = artifact.manifest.files[variant.weights].size
    if layout is None or options.memory_limit is not None or MODEST_SHARE * this_machine().memory <= size:
        return None
    try:
        return open_session(artifact, variant, provider=layout.provider, threads=layout.threads)
    except FletcherError as error:
        logger.warning(
            "no session for single batches", extra={"fields": {"variant": variant.name, "reason": str(error)}}
        )
        return None


def _tolerance(variant: Variant, layout: WorkerLayout, min_cosine: float | None) -> Accuracy:
    """Return the variant's tolerance, unless less was asked for: by a number, or by a provider of lower precision."""
    if min_cosine is not None:
        return Accuracy(min_cosine=min_cosine)
    precision = find_provider(layout.provider).precision
    if precision is None or precision == variant.precision:
        return variant.tolerance
    return Accuracy(min_cosine=min(REDUCED_COSINE, variant.tolerance.min_cosine))


def _budget(variant: Variant, options: LoadOptions, layout: WorkerLayout, max_tokens: int) -> MemoryBudget | None:
    """Return the memory that batches may need, or None without a limit.

    Raises:
        InputError: the limit is too small, or it is not known what a batch of this graph needs.
    """
    limit = options.memory_limit_bytes
    if limit is None:
        return None
    memory = find_provider(layout.provider).memory
    shape = memory.shape_of(variant)
    if shape is None:
        raise InputError(
            f"the variant {variant.name} does not say what its batches need, so no memory limit can be kept: "
            "convert the checkpoint again (traced graphs never say it), or leave the limit out"
        )
    return memory_budget(
        shape,
        limit=limit,
        loaded=resident(),
        caches=options.cache_bytes + CACHE_BYTES,
        workers=layout.workers,
        max_tokens=max_tokens,
        shared=memory.shared,
        kept=memory.kept * layout.workers,
    )
