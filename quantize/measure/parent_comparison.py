"""`compare_with_parent`: measures the accuracy of quantized graphs against the graphs that they were made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.artifact.graph.read import read_graph
from fletcher.runtime.artifact.manifest import Variant
from fletcher.runtime.canary import comparable, encode_canary, read_canary
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.errors import ArtifactError
from fletcher.runtime.loading import open_tokenizer
from fletcher.runtime.machine.machine import this_machine
from fletcher.runtime.origin.tolerances import FLOORS
from fletcher.runtime.providers.mlas.graph import CpuGraph
from fletcher.runtime.providers.mlas.mapped import LARGE
from fletcher.runtime.providers.opening import open_session

from ..cpu_stand_in import cpu_vectors
from ..recipe import Recipe
from .metrics import Comparison, compare, cosines

__all__ = ["INDEPENDENT", "Graphs", "ParentComparison", "canary_floor", "compare_with_parent", "embed_texts"]

#: Another machine rounds differently: the manifest allows the canary this many times the loss measured here, plus `SLACK`.
SLACK_FACTOR, SLACK = 2.0, 1e-3

#: Largest 1 - cosine of two equal vectors: ten times the rounding of float32.
INDEPENDENT = 1e-6

#: Texts per batch while vectors are compared.
BATCH = 16

#: Texts for graphs of absent devices: the CPU provider runs half types through float32, which is slow.
FEW_TEXTS = 48


@dataclass(frozen=True, slots=True)
class Graphs:
    """`Graphs`: graphs of one artifact that differ only in the lengths that they accept.

    Attributes:
        artifact: the artifact.
        variants: one variant, or one per length bucket.
    """

    artifact: Artifact
    variants: Sequence[Variant]

    @property
    def num_bytes(self) -> int:
        """Bytes of graphs and weights; a file that several graphs share counts once."""
        names = {name for variant in self.variants for name in (variant.file, variant.weights)}
        return sum(self.artifact.manifest.files[name].size for name in names)


@dataclass(frozen=True, slots=True)
class ParentComparison:
    """`ParentComparison`: accuracy of quantized graphs.

    Attributes:
        comparison: their vectors against the parent's.
        canary_cosine: smallest cosine of the canary.
        canary_text: text of the canary that has it; None if the model does not give a vector per text.
        tolerance: canary cosine that the manifest demands of every machine.
        batch_dependent: whether a text's vector depends on the other texts of its batch.
    """

    comparison: Comparison
    canary_cosine: float
    canary_text: str | None
    tolerance: float
    batch_dependent: bool

    @property
    def figures(self) -> dict[str, float]:
        """The figures that the manifest stores."""
        return {
            "cosine_mean": self.comparison.cosine_mean,
            "cosine_p1": self.comparison.cosine_p1,
            "cosine_min": self.comparison.cosine_min,
            "neighbors": self.comparison.neighbors,
            "texts": float(len(self.comparison.cosines)),
        }


def compare_with_parent(quantized: Graphs, parent: Graphs, recipe: Recipe, texts: Sequence[str]) -> ParentComparison:
    """Compare quantized graphs with their parent's on texts, and check them against the canary.

    Args:
        quantized: graphs of a written artifact.
        parent: the graphs that they were made from, in the same order.
        recipe: the recipe of the quantized graphs.
        texts: at least one.

    Raises:
        ArtifactError: the canary's cosine is lower than the recipe allows.
    """
    first = quantized.variants[0]
    runs_here = first.target == "cpu"
    if runs_here:
        vectors = embed_texts(quantized.artifact, first, texts)
        reference = _parent_vectors(parent.artifact, parent.variants[0], texts)
    else:
        card = parent.artifact.manifest.card
        tokenizer = open_tokenizer(parent.artifact)
        encodings = encode_canary(tokenizer, card, texts[:FEW_TEXTS], ())
        vectors = cpu_vectors(quantized.artifact, quantized.variants, encodings)
        reference = cpu_vectors(parent.artifact, parent.variants, encodings)
    comparison = compare(*comparable(quantized.artifact.manifest.card.output, vectors, reference))
    cosine, text = _check_canary(quantized, recipe)
    tolerance = max(canary_floor(recipe), 1 - (SLACK_FACTOR * (1 - cosine) + SLACK))
    depends = first.batch_dependent or (runs_here and _depends_on_batch(quantized.artifact, first, texts))
    return ParentComparison(comparison, cosine, text, tolerance, depends)


def canary_floor(recipe: Recipe) -> float:
    """Return the smallest canary cosine that the recipe allows."""
    return FLOORS[recipe.scheme] if recipe.min_cosine is None else recipe.min_cosine


def embed_texts(
    artifact: Artifact, variant: Variant, texts: Sequence[str], *, batch: int = BATCH
) -> NDArray[np.float32]:
    """Return what a graph for processors computes of texts on ONNX Runtime, float32: one row per text or per token.

    Args:
        artifact: the artifact.
        variant: one of its graphs with target `cpu`.
        texts: the texts, without a prompt; a reranker gets each text with the next one as its query.
        batch: texts per run.
    """
    encodings = _encode(artifact, texts)
    with open_session(artifact, variant, threads=len(this_machine().processors)) as session:
        return np.concatenate([session.run(part) for part in _batches(encodings, batch)])


def _encode(artifact: Artifact, texts: Sequence[str]) -> Encodings:
    card = artifact.manifest.card
    queries = (*texts[1:], texts[0]) if card.output == "scores" else ()
    return encode_canary(open_tokenizer(artifact), card, texts, queries)


def _parent_vectors(artifact: Artifact, variant: Variant, texts: Sequence[str]) -> NDArray[np.float32]:
    """Return what `embed_texts` returns. A session of a large parent, which is not served here, copies no weights."""
    if (artifact.path / variant.weights).stat().st_size < LARGE:
        return embed_texts(artifact, variant, texts)
    graph = CpuGraph(read_graph(artifact, variant), artifact.path, mapped=True)
    names, output = [info.name for info in variant.inputs], [variant.outputs[0].name]
    parts = (part.tensors(names) for part in _batches(_encode(artifact, texts), BATCH))
    return np.concatenate([graph.run(feeds, output)[0] for feeds in parts])


def _batches(encodings: Encodings, size: int) -> list[Encodings]:
    """Return batches in the order of the texts; sorting by length would return vectors in another order."""
    rows = np.arange(len(encodings))
    return [encodings.select(rows[start : start + size]) for start in range(0, len(rows), size)]


def _depends_on_batch(artifact: Artifact, variant: Variant, texts: Sequence[str]) -> bool:
    """Return whether a text has another vector alone than in a batch: MatMulNBits' kernels differ by the number of rows."""
    few = list(texts[:BATCH])
    alone, together = (embed_texts(artifact, variant, few, batch=size) for size in (1, BATCH))
    ours, theirs = (rows.astype(np.float64) for rows in comparable(artifact.manifest.card.output, alone, together))
    return bool((1 - cosines(ours, theirs)).max() > INDEPENDENT)


def _check_canary(graphs: Graphs, recipe: Recipe) -> tuple[float, str | None]:
    """Return the smallest cosine of the canary, and the text that has it, if there is a vector per text.

    Raises:
        ArtifactError: it is lower than the recipe allows.
    """
    artifact, variant = graphs.artifact, graphs.variants[0]
    canary = read_canary(artifact.canary_file)
    output = artifact.manifest.card.output
    if variant.target == "cpu":
        with open_session(artifact, variant, threads=len(this_machine().processors)) as session:
            vectors = session.run(canary.encodings)
            result = canary.judge_all(lambda name: session.run(canary.encodings, name), output, variant.tolerance)
    else:
        vectors = cpu_vectors(artifact, graphs.variants, canary.encodings)
        result = canary.judge(vectors, output, variant.tolerance)
    if not result.passed:
        raise ArtifactError(
            f"the recipe {recipe.name} does too much damage to {artifact.manifest.card.name}: canary {result.reason}. "
            "Exclude the matrices that lose the most (`fletcher-convert quantize sensitivity DIR` lists them), choose "
            "another recipe, or set a lower min_cosine in the recipe"
        )
    if output in ("scores", "sparse") or len(vectors) != len(canary.texts):
        return result.min_cosine, None
    worst = int(cosines(vectors.astype(np.float64), canary.vectors.astype(np.float64)).argmin())
    return result.min_cosine, canary.texts[worst]
