"""`write_artifacts`: converts, quantizes and verifies a tuned model, and compares it with the trained model in torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from fletcher.model_zoo.progress import Progress
from fletcher.quantize.graph.activations import Activations
from fletcher.quantize.measure.parent_comparison import embed_texts
from fletcher.quantize.quantized_artifact import quantize
from fletcher.quantize.recipe import Recipe
from fletcher.quantize.samples import evenly_spaced
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.errors import VerificationError

from ...export.export import export
from ...export.options import ExportOptions
from ..models.load import save_model
from ..options import OutputOptions
from .results import Exactness, TunedArtifact
from .state import RunFolder

__all__ = ["Outcome", "baselines", "write_artifacts"]

#: Texts that are compared with the trained model, evenly spaced by length.
COMPARED = 32

#: Largest difference of an element: ten times what float32 gives, and a tenth of what a wrong factor gives.
LARGEST = 1e-4


@dataclass(frozen=True, slots=True)
class Outcome:
    """`Outcome`: a trained model and everything that its artifacts need.

    Attributes:
        model: the model of sentence-transformers in float; with the layers of a plan while they are trained.
        texts: test texts.
        calibrating: training texts.
        recipe: recipe that quantizes it, or None.
        activations: statistics of the activations that the training used; None calibrates.
        lengths: shorter lengths that the vectors were trained for.
        student: whether the model is a student, whose teacher is the model before the training.
    """

    model: Any
    texts: Sequence[str]
    calibrating: Sequence[str]
    recipe: Recipe | None
    activations: Mapping[str, Activations] | None = None
    lengths: Sequence[int] = field(default=())
    student: bool = False

    @property
    def aware(self) -> bool:
        """Return whether the model was trained with quantized layers."""
        return self.activations is not None or _is_aware(self.model)


def write_artifacts(
    outcome: Outcome, name: str, run: RunFolder, options: OutputOptions, progress: Progress
) -> list[TunedArtifact]:
    """Write the checkpoint, its float32 artifact, and the quantized one.

    Args:
        outcome: the trained model.
        name: its name.
        run: folders to write into; older results there are replaced.
        options: whether to verify.
        progress: receives lines.

    Raises:
        VerificationError: an artifact differs from sentence-transformers, or from the trained model.
        ArtifactError: the recipe does too much damage.
    """
    progress.line("converting the tuned model")
    save_model(outcome.model, run.checkpoint)
    exported = export(
        str(run.checkpoint),
        run.artifact("float32"),
        ExportOptions(verify=options.verify, dimensions=outcome.lengths, name=name),
        progress=progress,
    )
    written = []
    float_texts = () if outcome.aware else outcome.texts
    written.append(_describe(exported.path, "float32", exported.status, outcome.model, float_texts))
    if outcome.recipe is not None:
        path = run.artifact(outcome.recipe.name)
        quantize(
            exported.path,
            path,
            outcome.recipe,
            texts=outcome.texts,
            calibration=outcome.calibrating,
            activations=outcome.activations,
            progress=progress,
        )
        texts = outcome.texts if outcome.aware else ()
        written.append(_describe(path, outcome.recipe.name, exported.status, outcome.model, texts))
    return written


def baselines(run: RunFolder, outcome: Outcome, progress: Progress) -> dict[str, Path]:
    """Return the artifact that each graph is compared with: that of the model before the training, by the graph's recipe.

    A student is compared with its teacher in float32, and only the quantized graph of quantized layers is compared.
    """
    recipe = outcome.recipe
    found = {} if outcome.aware else {"float32": run.base}
    if recipe is not None and outcome.student:
        found[recipe.name] = run.base
    elif recipe is not None:
        path = found[recipe.name] = run.artifact(recipe.name, base=True)
        texts, calibration = outcome.texts, outcome.calibrating
        quantize(run.base, path, recipe, texts=texts, calibration=calibration, progress=progress)
    return found


def _is_aware(model: Any) -> bool:
    from ..aware.modules import QuantizedLinear

    return any(isinstance(module, QuantizedLinear) for module in model.modules())


def _describe(path: Path, graph: str, status: str, model: Any, texts: Sequence[str]) -> TunedArtifact:
    """Return the description of an artifact, after a comparison with the trained model.

    Raises:
        VerificationError: it differs.
    """
    artifact = Artifact.open(path)
    exactness = _compare(artifact, model, texts)
    difference = exactness.median if exactness.settled is None else exactness.settled
    if difference > LARGEST:
        raise VerificationError(
            f"the vectors of {path} differ from those of the trained model by {difference:.1e} ({exactness.texts} texts): do "
            "not use it, and report this as a defect of Fletcher"
        )
    num_bytes = sum(info.size for info in artifact.manifest.files.values())
    return TunedArtifact(
        path=str(path), graph=graph, digest=artifact.digest, status=status, num_bytes=num_bytes, exactness=exactness
    )


def _compare(artifact: Artifact, model: Any, texts: Sequence[str]) -> Exactness:
    """Compare the first graph of an artifact with a model in torch, text by text."""
    import torch

    from ..aware.ties import settled_vectors

    if not texts:
        return Exactness(texts=0, median=0.0, largest=0.0)
    ordered = sorted(texts, key=len)
    few = [ordered[row] for row in evenly_spaced(len(ordered), COMPARED)]
    found = embed_texts(artifact, artifact.manifest.variants[0], few, batch=1)
    with torch.no_grad():
        expected = np.stack([model.encode(text, prompt="", convert_to_numpy=True) for text in few])
    differences = np.abs(found - expected).max(axis=1)
    exactness = Exactness(texts=len(few), median=float(np.median(differences)), largest=float(differences.max()))
    if not _is_aware(model):
        return exactness
    settled = settled_vectors(model, artifact, few)
    return msgspec.structs.replace(
        exactness,
        settled=float(np.abs(settled.graph - settled.layers).max()),
        ties=settled.ties / settled.codes,
    )
