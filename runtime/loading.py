"""Loading of an encoder's parts, according to the caller's options and the measurements on this machine."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import msgspec

from fletcher.model_zoo.card import Accuracy

from .artifact.folder import Artifact
from .artifact.manifest import Variant
from .errors import FletcherError, InputError
from .machine.affinity import pinning
from .machine.machine import container_limit, this_machine
from .memory.budget import MemoryBudget, memory_budget, resident
from .options.load import LoadOptions
from .providers.opening import Opened, open_session, open_with_fallback
from .providers.selection import find_provider
from .providers.worker_layout import WorkerLayout
from .session.session import Session
from .tokenizing.containment import check_contained
from .tokenizing.tokenizer import CACHE_BYTES, Tokenizer
from .tuning.settle import settle
from .workers.pool import Workers

__all__ = ["Loaded", "load_parts", "open_tokenizer"]

logger = logging.getLogger("fletcher.runtime.loading")

#: Largest share of the machine's memory that the weights may have for a second session, which holds a second copy of them.
MODEST_SHARE = 0.05

#: Tokens of a batch for `LoadOptions.exact`: every text is then a batch of its own, and no other text can change its vector.
#: All texts run on one session, because two sessions with different threads may round differently.
EXACT_BUDGET = 1

#: Smallest cosine of the canary with a provider that computes in a lower precision than the variant's, such as bfloat16.
#: The worst text of MiniLM, which consists of two special tokens, has 0.99991.
REDUCED_COSINE = 0.999


@dataclass(frozen=True, slots=True)
class Loaded:
    """Parts of an encoder.

    Attributes:
        variant: the graph that runs.
        provider: name of the provider that runs it.
        tokenizer: the artifact's tokenizer.
        workers: the workers, which hold the session.
        fallback: reason why another provider runs than the requested one; None if the requested one runs.
        reason: reason for the choice of provider, workers and token budget.
        tolerance: allowed difference of the session's vectors from the canary's.
        exact: whether every text is computed in a batch of its own.
    """

    variant: Variant
    provider: str
    tokenizer: Tokenizer
    workers: Workers
    fallback: str | None
    reason: str
    tolerance: Accuracy
    exact: bool = False


def open_tokenizer(artifact: Artifact) -> Tokenizer:
    """Open an artifact's tokenizer with all that the manifest says of it; it cuts texts to the card's longest input.

    Raises:
        ArtifactError: the file cannot be read, cannot be used safely (see `check_contained`), or the longest input has no
            room beside the special tokens.
    """
    manifest = artifact.manifest
    check_contained(artifact.tokenizer_file)
    return Tokenizer(artifact.tokenizer_file, manifest.card.max_tokens, strip=manifest.strips_texts)


def load_parts(artifact: Artifact, variant: Variant, options: LoadOptions, note: str = "") -> Loaded:
    """Open an artifact's tokenizer and session.

    Args:
        artifact: the artifact.
        variant: variant to run.
        options: options of loading.
        note: reason for the choice of the variant, which follows the reason for provider and workers.

    Raises:
        FletcherError: as in `Encoder.load`, except for the checks of files and canary.
    """
    max_tokens = artifact.manifest.card.max_tokens
    tokenizer = open_tokenizer(artifact)
    choice = settle(
        artifact,
        variant,
        provider=options.provider,
        workers=options.workers,
        token_budget=EXACT_BUDGET if options.exact else options.token_budget,
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
        alone=_open_alone(
            artifact, variant, options, choice.alone if opened.fallback is None and not options.exact else None
        ),
        count=used.workers,
        token_budget=used.token_budget,
        budget=budget,
        initializer=pinning(used.workers, this_machine()) if _is_pinned(used) else None,
    )
    tolerance = _tolerance(variant, used, options.min_cosine)
    reason = choice.reason + note + ("; every text is a batch of its own (exact)" if options.exact else "")
    return Loaded(variant, opened.provider, tokenizer, workers, opened.fallback, reason, tolerance, options.exact)


def _layout_of(opened: Opened, layout: WorkerLayout, variant: Variant) -> WorkerLayout:
    """Return the layout that the opened session runs in.

    Args:
        opened: the session. If it runs the same variant on another provider (CUDA instead of TensorRT), it keeps the layout,
            because both providers use the same GPUs.
        layout: the chosen layout.
        variant: the chosen variant.
    """
    if opened.provider == layout.provider:
        return layout
    if opened.variant is variant:
        return msgspec.structs.replace(layout, provider=opened.provider)
    return find_provider(opened.provider).default_layout(this_machine())


def _is_pinned(layout: WorkerLayout) -> bool:
    """Return whether each worker is bound to a NUMA node: if each computes on the processor with one thread.

    The fleet binds workers that wait for a GPU to the node of that GPU.
    """
    return layout.threads == 1 and find_provider(layout.provider).device_kind == "cpu"


def _open_alone(
    artifact: Artifact, variant: Variant, options: LoadOptions, layout: WorkerLayout | None
) -> Session | None:
    """Open a second session for batches that run alone, or return None.

    It is opened only if it was measured to be faster, no memory limit is set, and a second copy of the weights is small
    compared with the machine's memory. An encoder works without it, so an error is logged and not raised.

    Args:
        artifact: the artifact.
        variant: the variant that runs.
        options: options of loading.
        layout: the layout that is faster for such batches; None if no other layout is.
    """
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
    """Return the variant's tolerance, or a wider one if the caller set `min_cosine` or the provider's precision is lower."""
    if min_cosine is not None:
        return Accuracy(min_cosine=min_cosine)
    precision = find_provider(layout.provider).precision
    if precision is None or precision == variant.precision:
        return variant.tolerance
    return Accuracy(min_cosine=min(REDUCED_COSINE, variant.tolerance.min_cosine))


def _budget(variant: Variant, options: LoadOptions, layout: WorkerLayout, max_tokens: int) -> MemoryBudget | None:
    """Return the memory budget of batches, or None if neither the options nor the container limit the memory.

    Raises:
        InputError: the limit is too small, or the memory that a batch of this graph needs is not known.
    """
    limit, container = options.memory_limit_bytes, container_limit()
    if limit is None and container is not None:
        limit = int(container * (1 - MODEST_SHARE))  # the second session of single batches may take the rest
    if limit is None:
        return None
    memory = find_provider(layout.provider).memory
    shape = memory.shape_of(variant)
    if shape is None and options.memory_limit is None:
        logger.warning("the container's memory limit cannot be kept", extra={"fields": {"variant": variant.name}})
        return None
    if shape is None:
        raise InputError(
            f"the variant {variant.name} does not state the memory that its batches need, so a memory limit cannot be "
            "enforced: convert the checkpoint again (traced graphs never state it), or remove the limit"
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
