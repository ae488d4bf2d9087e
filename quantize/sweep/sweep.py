"""`sweep`: measures every recipe on the user's texts and on this machine, and recommends one.

Results are stored as soon as they are measured, so an interrupted sweep can be resumed. Each recipe is timed in turns with
float32, so the results of two runs of the command can be compared.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from fletcher import __version__
from fletcher.model_zoo.progress import SILENT, Progress
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.errors import FletcherError, InputError
from fletcher.runtime.machine.machine import this_machine
from fletcher.runtime.providers.needs import require
from fletcher.runtime.providers.selection import find_provider
from fletcher.runtime.tuning.history import measuring_key

from ..graph.matrices import float_variant
from ..measure.footprint import footprint
from ..measure.pairs import LabeledPairs
from ..measure.quality import measure_quality
from ..measure.retrieval import StorageResult, storage_quality
from ..measure.runnable_variant import RunnableVariant
from ..measure.speed import measure_speeds
from ..measure.texts import BUILT_IN, SplitTexts, default_texts, split_texts
from ..quantized_artifact import tool_versions
from ..recipe import Recipe, load_recipe
from ..sensitivity import sensitivity
from .further_rounds import distinguish
from .inputs import PROVIDER, RUNS_ON, SweepInputs, quantize_into, runnable_of
from .options import SweepOptions
from .recipes import default_recipes, exclusion_base, without_worst_matrices
from .recommendation import eligible, pareto_front, reason_to_drop, recommend
from .results import Candidate, SweepReport
from .state import WORK, StateFile, open_state

__all__ = ["ARTIFACT", "sweep"]

#: In the folder of a sweep: the recommended artifact.
ARTIFACT: Final = "artifact"

#: Texts that damage by matrix is measured on.
DAMAGE_TEXTS = 48


def sweep(
    artifact: str | Path | Artifact,
    output: str | Path,
    options: SweepOptions | None = None,
    *,
    texts: Sequence[str] | None = None,
    name: str = BUILT_IN,
    pairs: LabeledPairs | None = None,
    progress: Progress = SILENT,
) -> SweepReport:
    """Measure recipes, and write the artifact of the recommended one to `output/artifact`.

    Args:
        artifact: an artifact with a float32 graph for processors, or its folder.
        output: folder of the sweep: new, empty, or of an interrupted sweep of the same artifact and texts.
        options: bounds, budget and recipes. Default: `SweepOptions()`.
        texts: a quarter of them calibrates, and the others are measured. Default: built-in texts.
        name: source of the texts, for the report.
        pairs: pairs with a similarity score given by people, for a rank correlation.
        progress: receives a line per step, and counts recipes and matrices.

    Raises:
        InputError: there are too few texts, all have the same length, a recipe does not exist, or `output` is another sweep.
        ArtifactError: the artifact has no float32 graph, or is quantized already.
        MissingPackageError: a requested recipe needs OpenVINO, which is not installed.
    """
    options = SweepOptions() if options is None else options
    parent = artifact if isinstance(artifact, Artifact) else Artifact.open(artifact)
    runnable = RunnableVariant(parent, float_variant(parent), PROVIDER)
    recipes = [load_recipe(recipe) for recipe in options.recipes]
    if unfit := [recipe.name for recipe in recipes if recipe.target not in RUNS_ON]:
        raise InputError(f"{', '.join(unfit)} cannot run here: a sweep tries recipes for {' and '.join(RUNS_ON)}")
    for recipe in recipes:
        require(find_provider(RUNS_ON[recipe.target]), this_machine())
    split = split_texts(parent, default_texts() if texts is None else texts, name=name, pairs=pairs)
    output = Path(output)
    with open_state(output, _key(parent, split, options)) as file:
        return _Run(SweepInputs(runnable, split, options, output, progress), file).run(recipes)


class _Run:
    """`_Run`: one run of a sweep."""

    def __init__(self, inputs: SweepInputs, file: StateFile) -> None:
        self._inputs = inputs
        self._file = file
        self._state = file.state
        self._note = ""

    def run(self, recipes: list[Recipe]) -> SweepReport:
        inputs, state = self._inputs, self._state
        inputs.progress.line("computing float32's vectors, the reference")
        reference = inputs.parent.compute(inputs.texts.measured_ids)
        if state.parent is None:
            state.parent = self._measure_parent(reference)
            self._file.save()
        recipes = recipes or self._default_recipes()
        measured = {candidate.name for candidate in state.candidates}
        if before := [recipe.name for recipe in recipes if recipe.name in measured]:
            inputs.progress.line(f"measured before: {', '.join(before)}")
        not_reached: list[str] = []
        waiting = [recipe for recipe in recipes if recipe.name not in measured]
        self._note = _upcoming(waiting)
        with inputs.progress.count(
            "sweeping", total=len(waiting), units=("recipes",), note=lambda: self._note
        ) as counter:
            for number, recipe in enumerate(waiting, 1):
                if exceeded := self._exceeds_budget():
                    not_reached.append(recipe.name)
                else:
                    state.candidates.append(self._try(recipe, reference, state.parent))
                    self._file.save()
                self._note = _upcoming(waiting[number:])
                counter.advance(0 if exceeded else 1, total=len(waiting) - len(not_reached))
        distinguish(inputs, self._file, [recipe.name for recipe in recipes])
        return self._conclude(state.parent, recipes, storage_quality(reference), not_reached)

    def _exceeds_budget(self) -> bool:
        """Return whether the next recipe would probably end after the budget."""
        budget = self._inputs.options.budget_seconds
        if budget is None:
            return False
        expected = max((candidate.seconds for candidate in self._state.candidates), default=0.0)
        return self._file.elapsed + expected > budget

    def _measure_parent(self, reference: np.ndarray) -> Candidate:
        """Measure float32 itself."""
        started = time.monotonic()
        parent, texts = self._inputs.parent, self._inputs.texts
        quality = measure_quality(parent, texts, reference)
        (speed,) = measure_speeds([parent], texts.measured_ids, rounds=self._inputs.options.rounds)
        return Candidate(
            name="fp32",
            description="the reference of all figures",
            quality=quality,
            speed=speed,
            file_bytes=parent.num_bytes,
            memory_bytes=footprint(parent.artifact.path, parent.variant.name, PROVIDER),
            seconds=round(time.monotonic() - started, 2),
        )

    def _default_recipes(self) -> list[Recipe]:
        """Return the built-in recipes, and after the first two the recipes with excluded matrices."""
        inputs, state = self._inputs, self._state
        base = exclusion_base(inputs.parent.variant)
        if state.sensitivity is None:
            texts = inputs.texts.calibrating[:DAMAGE_TEXTS]
            state.sensitivity = sensitivity(inputs.parent.artifact, base, texts=texts, progress=inputs.progress)
            self._file.save()
        recipes = default_recipes(inputs.parent.variant)
        return [*recipes[:2], *without_worst_matrices(base, state.sensitivity), *recipes[2:]]

    def _try(self, recipe: Recipe, reference: np.ndarray, parent: Candidate) -> Candidate:
        """Quantize by one recipe and measure the result; the error of a recipe that fails becomes part of its result."""
        started = time.monotonic()
        inputs = self._inputs
        folder = inputs.output / WORK
        candidate = Candidate(name=recipe.name, description=recipe.description, recipe=recipe)
        try:
            runnable = runnable_of(inputs, recipe, folder)
            quality = measure_quality(runnable, inputs.texts, reference)
            pair = [inputs.parent, runnable]
            _, speed = measure_speeds(pair, inputs.texts.measured_ids, rounds=inputs.options.rounds)
            candidate = msgspec.structs.replace(
                candidate,
                quality=quality,
                speed=speed,
                file_bytes=runnable.num_bytes,
                size=runnable.num_bytes / parent.file_bytes,
                memory_bytes=footprint(folder, runnable.variant.name, runnable.provider),
            )
        except FletcherError as error:
            candidate = msgspec.structs.replace(candidate, problem=str(error))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        candidate = msgspec.structs.replace(candidate, seconds=round(time.monotonic() - started, 2))
        return msgspec.structs.replace(candidate, dropped=reason_to_drop(candidate))

    def _conclude(
        self, parent: Candidate, recipes: Sequence[Recipe], storage: Sequence[StorageResult], not_reached: Sequence[str]
    ) -> SweepReport:
        """Recommend a recipe, write its artifact, and return the report."""
        inputs, state, options = self._inputs, self._state, self._inputs.options
        names = [recipe.name for recipe in recipes]
        candidates = sorted(
            (candidate for candidate in state.candidates if candidate.name in names),
            key=lambda candidate: names.index(candidate.name),
        )
        useful = [candidate for candidate in candidates if not candidate.dropped]
        within = [candidate for candidate in useful if eligible(candidate, options.min_cosine, options.min_overlap)]
        recommendation = recommend(useful, options.min_cosine, options.min_overlap)
        chosen = recommendation.chosen
        artifact = inputs.parent.artifact
        output = artifact.path
        if chosen is not None:
            inputs.progress.line(f"writing the artifact of {chosen}")
            output = inputs.output / ARTIFACT
            recipe = next(candidate.recipe for candidate in useful if candidate.name == chosen)
            assert recipe is not None
            quantize_into(inputs, recipe, output)
        machine, texts = this_machine(), inputs.texts
        return SweepReport(
            model=artifact.manifest.card.name,
            artifact=str(artifact.path),
            digest=artifact.digest,
            proof=artifact.manifest.proof,
            machine=f"{machine.processor}, {len(machine.processors)} logical processors",
            provider=PROVIDER,
            texts=texts.name,
            measured=len(texts.measured),
            calibrating=len(texts.calibrating),
            pairs=0 if texts.pairs is None else len(texts.pairs),
            min_cosine=options.min_cosine,
            min_overlap=options.min_overlap,
            parent=parent,
            candidates=tuple(candidates),
            pareto_front=tuple(pareto_front([parent, *within])),
            chosen=chosen,
            equals=recommendation.equals,
            sentence=recommendation.sentence,
            output=str(output),
            sensitivity=state.sensitivity,
            storage=tuple(storage),
            not_reached=tuple(not_reached),
            seconds=round(self._file.total, 1),
            tie_seconds=round(state.tie_seconds, 1),
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            tools=tool_versions(),
        )


def _upcoming(recipes: Sequence[Recipe]) -> str:
    return f"next {recipes[0].name}" if recipes else ""


def _key(parent: Artifact, texts: SplitTexts, options: SweepOptions) -> str:
    """Return a hash of everything that a measurement depends on: bounds, budget and recipes may differ between runs."""
    parts = [parent.digest, texts.digest, str(options.rounds), measuring_key(), __version__]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
