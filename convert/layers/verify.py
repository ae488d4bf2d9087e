"""Comparison of a variant with transformers' model, or with another variant of the same artifact, layer by layer.

The order is: vocabulary and token ids, every weight, every point of the graph on batches of several sizes and lengths, and
at last the served session with the probed graph. See `probe`, `reference` and `weights`.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from fletcher.model_zoo.card import ModelCard, Output
from fletcher.model_zoo.progress import SILENT, Progress
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.artifact.manifest import Variant
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.errors import InputError, MissingPackageError, ProviderError
from fletcher.runtime.providers.opening import open_session
from fletcher.runtime.providers.selection import default_provider

from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.ignored_keys import IgnoredKeys
from ..checkpoint.routes.layout import chosen_task, task_names
from ..checkpoint.tensors import Weight
from ..checkpoint.tokenizer_version import read_version
from ..export.layout import plain_layout
from ..heads import describe_model
from ..precision import Float
from ..targets.emit import choose, emit
from ..verify.comparison import versions
from ..verify.verify import fetch_reference, reference_name
from .batches import Rows, plan_batches
from .compare import ROUNDOFF, compare_values, tolerance_of
from .points import layer_of
from .probe import GraphProbe, Values
from .reference import Tracer
from .results import LayersReport, PointResult
from .tally import Tally
from .tokens import compare_skipped, compare_tokenizers, open_tokenizer
from .traced_model import TRACED_MODELS
from .weights import compare_weights

__all__ = ["compare_variants", "verify_layers"]


def verify_layers(
    path: str | Path,
    reference: str | None = None,
    *,
    texts: Sequence[str] = (),
    variant: str | None = None,
    progress: Progress = SILENT,
) -> LayersReport:
    """Compare a variant with the HuggingFace model at every point; write nothing.

    A difference is not raised: the report has a verdict, and `LayersReport.raise_if_failed` turns it into an error.

    Args:
        path: the artifact's folder.
        reference: SOURCE of the checkpoint to compare with; None is the one that the artifact was made from.
        texts: texts to compare besides the built-in ones.
        variant: the variant to compare; None is the artifact's first.
        progress: receives messages and counts. Default: nothing is reported.

    Raises:
        InputError: the variant or the family cannot be compared layer by layer.
        ArtifactError: the artifact cannot be read, or is damaged.
        SourceError: the reference cannot be fetched.
        ChecksumError: a file of the artifact is damaged, or the reference is not the checkpoint that it was made from.
        CheckpointError: Fletcher or transformers cannot load the reference.
        MissingPackageError: torch or transformers is not installed, or ONNX Runtime with CUDA for a cuda variant.
    """
    artifact = Artifact.open(path)
    chosen = _find_variant(artifact, variant)
    card = artifact.manifest.card
    artifact.check_files()
    checkout = fetch_reference(artifact, reference, progress)
    name = reference_name(checkout)
    if card.tasks:
        raise InputError(_explain_tasks(path, name, card, checkout.folder))
    task = chosen_task(checkout.folder, card.input_type)
    with plain_layout(checkout, task, progress) as layout:
        folder = layout.routed
        traced = TRACED_MODELS[card.output](folder, card)
        rows = plan_batches(open_tokenizer(artifact), card.max_tokens, texts, chosen.feeds.shape, traced.unseen_tail)
        batches = _encode(rows, chosen)
        with GraphProbe(artifact, chosen) as probe, Tracer(traced) as tracer:
            # The reference does not show the result of a sentence-transformers Dense module before its activation.
            probe.points = [
                point
                for point in probe.points
                if point.key in traced.taps
                or point.key in traced.steps
                or not (point.key.endswith("/dense") or point.key.partition("/")[2] in traced.family.unshown)
            ]
            results = [*compare_tokenizers(artifact, traced, texts), *compare_skipped(artifact, traced, folder)]
            progress.line("comparing the weights with the checkpoint's")
            tables = {chosen.feeds.tables[name]: table for name, table in probe.tables.items()}
            manifest = artifact.manifest
            ignored, like = IgnoredKeys(manifest.ignored_keys), read_version(manifest.tokenizer_like)
            expected = _expected_weights(Checkpoint.open(layout.folder, ignored, tokenizer_like=like), card, chosen)
            results += compare_weights(probe.model, artifact.path, tables, expected)

            def trace(batch: Encodings) -> Values:
                types = None if batch.token_types is None else _rows(batch.token_types, batch)
                traces = [
                    tracer.run(row, None if types is None else types[index])
                    for index, row in enumerate(_rows(batch.ids, batch))
                ]
                return {key: [values[key] for values in traces] for key in traces[0]}

            values = _compare_values(artifact, chosen, probe, trace, chosen.precision, batches, progress)
    return _report(artifact, chosen, name, traced.tools, batches, [*results, *values])


def compare_variants(
    path: str | Path, *, against: str, on: str, texts: Sequence[str] = (), progress: Progress = SILENT
) -> LayersReport:
    """Compare a variant with another one of the same artifact, at every point that both have; write nothing.

    Args:
        path: the artifact's folder.
        against: the variant whose values are expected, by its name, or by its target if the artifact has one variant of it.
        on: the variant to compare, with the tolerance of the coarser precision of the two.
        texts: texts to compare besides the built-in ones.
        progress: receives messages and counts. Default: nothing is reported.

    Raises:
        InputError: a variant cannot be compared layer by layer, or both are the same.
        ArtifactError: the artifact cannot be read, is damaged, or lacks a variant.
        MissingPackageError: a variant is for CUDA, and ONNX Runtime with CUDA is not installed.
        ProviderError: a variant is for CUDA, which cannot be used on this machine.
    """
    artifact = Artifact.open(path)
    right, judged = _find_variant(artifact, against), _find_variant(artifact, on)
    if right.name == judged.name:
        raise InputError(f"{right.name} would be compared with itself: name two variants by --against and --on")
    artifact.check_files()
    card, tokenizer = artifact.manifest.card, open_tokenizer(artifact)
    expansion = card.late_interaction.expansion if card.late_interaction is not None else None
    tail = tokenizer.token_to_id(expansion.token) if expansion is not None and not expansion.attended else None
    shape = judged.feeds.shape or right.feeds.shape
    batches = _encode(plan_batches(tokenizer, card.max_tokens, texts, shape, tail), judged)
    coarser = max(right.precision, judged.precision, key=lambda precision: ROUNDOFF[precision])
    with GraphProbe(artifact, right) as other, GraphProbe(artifact, judged) as probe:
        common = {point.key for point in other.points} & {point.key for point in probe.points}
        # A target can compute more rows of the last layer than another one.
        pooled = {point.key: point.pooled for point in other.points}
        probe.points = [
            replace(point, pooled=point.pooled or pooled[point.key]) for point in probe.points if point.key in common
        ]

        def read(batch: Encodings) -> Values:
            values, _ = other.run(batch)
            return {key: value for key, value in values.items() if key in common}

        values = _compare_values(artifact, judged, probe, read, coarser, batches, progress)
    return _report(artifact, judged, right.name, {}, batches, values)


def _find_variant(artifact: Artifact, name: str | None) -> Variant:
    """Return a variant by its name, or by its target if the artifact has one of it.

    Raises:
        ArtifactError: the artifact has no such variant.
        InputError: the variant was traced, so that its values have no known names, or its precision has no tolerance.
    """
    of_target = [variant for variant in artifact.manifest.variants if variant.target == name]
    variant = of_target[0] if len(of_target) == 1 else artifact.variant(name)
    if variant.exporter != "fletcher":
        raise InputError(
            f"{variant.name} was traced by {variant.exporter}, so its values have no names: it cannot be compared layer by "
            "layer. Verify it without --layers"
        )
    if variant.precision not in ROUNDOFF:
        raise InputError(
            f"{variant.name} cannot be compared layer by layer, only {', '.join(ROUNDOFF)} can. "
            "Verify it without --layers"
        )
    return variant


def _encode(batches: Sequence[Rows], variant: Variant) -> list[Encodings]:
    """Return the batches as encodings; for a variant with token types, the second half of each text is of type 1."""
    encodings = [Encodings.from_lists(rows) for rows in batches]
    if all(info.name != "token_type_ids" for info in variant.inputs):
        return encodings
    halves = [np.concatenate([np.arange(len(row)) >= (len(row) + 1) // 2 for row in rows]) for rows in batches]
    return [replace(batch, token_types=types.astype(np.int32)) for batch, types in zip(encodings, halves, strict=True)]


def _rows(values: NDArray[np.int32], batch: Encodings) -> list[list[int]]:
    """Return packed values split by texts."""
    return [row.tolist() for row in np.split(values, batch.offsets[1:-1])]


def _explain_tasks(path: str | Path, source: str, card: ModelCard, folder: Path) -> str:
    """Return the commands that compare a model whose texts choose a task or a route."""
    first, *others = task_names(folder)
    return (
        f"the input types of {card.name} choose adapters or routes ({', '.join((first, *others))}), and --layers compares a "
        f"model with one of them. Run `fletcher-convert model export {source} -o OUT-{first} --task {first}`, then "
        f"`fletcher-convert model verify OUT-{first} --layers`, and the same for {' and '.join(others)}. To compare the "
        f"results of all of them: `fletcher-convert model verify {path}`"
    )


def _expected_weights(checkpoint: Checkpoint, card: ModelCard, variant: Variant) -> Mapping[str, Weight]:
    """Return the weights that `export` would write for a variant now."""
    architecture = describe_model(checkpoint, card)
    precision = choose(variant.target, cast(Float, variant.precision), variant.islands)
    emissions = emit(variant.target, architecture, card.dimension, card.max_tokens, precision)
    names = {f"{variant.target}-{variant.precision}{emission.suffix}": emission for emission in emissions}
    if variant.name not in names:
        raise InputError(
            f"the checkpoint has no graph {variant.name}, only {', '.join(names)}: compare with the checkpoint "
            "that the artifact was made from"
        )
    return names[variant.name].graph.weights


def _compare_values(
    artifact: Artifact,
    variant: Variant,
    probe: GraphProbe,
    expect: Callable[[Encodings], Values],
    precision: str,
    batches: Sequence[Encodings],
    progress: Progress,
) -> list[PointResult]:
    """Compare every point of the graph over all batches, and the served session's vectors with the probed graph's.

    Args:
        artifact: artifact of the variant.
        variant: variant to compare.
        probe: its graph.
        expect: returns the reference's values on each text of a batch.
        precision: precision whose tolerance applies.
        batches: texts.
        progress: receives messages and counts.
    """
    tally = Tally(probe.points, probe.hidden)
    probed = []
    total, units = sum(map(len, batches)), ("texts", "tokens")
    with progress.count(f"layers of {variant.name}", total=total, units=units) as counter:
        for batch in batches:
            values, vectors = probe.run(batch)
            tally.add(values, expect(batch), batch.lengths.tolist())
            probed.append(vectors)
            counter.advance(len(batch), batch.num_tokens)
    depth = 1 + max((layer for point in probe.points if (layer := layer_of(point.key)) is not None), default=-1)

    def tolerance(key: str) -> float:
        layer = layer_of(key)
        after = 0 if key.startswith("embeddings/") else depth
        return tolerance_of(precision, key, after if layer is None else layer)

    results = tally.results(tolerance)
    try:
        with open_session(artifact, variant, provider=default_provider(variant.target)) as session:
            served = [session.run(batch) for batch in batches]
    except (MissingPackageError, ProviderError) as error:
        progress.warn(f"the graph was compared, and the served session was not compared with it: {error}")
        return results
    output = artifact.manifest.card.output
    return [*results, _compare_session(output, np.concatenate(served), np.concatenate(probed), tolerance(output))]


def _compare_session(
    output: Output, served: NDArray[np.float32], probed: NDArray[np.float32], tolerance: float
) -> PointResult:
    """Compare the served session, on its target's provider, with the probed graph.

    Args:
        output: output of the model.
        served: values of the session, (texts, dimension) or (tokens, dimension).
        probed: values of the probed graph, of the same shape.
        tolerance: tolerance of the relative error.
    """
    difference = compare_values(served, probed)
    return PointResult(
        section="session",
        point=f"{output.replace('_', ' ')} of the served session",
        key=f"session/{output}",
        node=output,
        shape=("tokens" if output == "token_vectors" else "texts", served.shape[1]),
        max_abs=difference.max_abs,
        relative=difference.relative,
        cosine=difference.cosine,
        tolerance=tolerance,
        verdict="passed" if difference.relative <= tolerance else "failed",
        note="as its provider optimized it, against the graph as it was written",
    )


def _report(
    artifact: Artifact,
    variant: Variant,
    reference: str,
    tools: Mapping[str, str],
    batches: Sequence[Encodings],
    points: Sequence[PointResult],
) -> LayersReport:
    first = next((point for point in points if point.verdict != "passed"), None)
    return LayersReport(
        model=artifact.manifest.card.name,
        artifact=str(artifact.path),
        digest=artifact.digest,
        variant=variant.name,
        reference=reference,
        time=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        tools={**versions("longbow-fletcher", "onnxruntime", "tokenizers", "numpy"), **tools},
        batches=tuple(tuple(batch.lengths.tolist()) for batch in batches),
        points=tuple(points),
        first=first,
        verdict="passed" if first is None else "failed",
    )
