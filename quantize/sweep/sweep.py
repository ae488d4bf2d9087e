"""A sweep: every recipe on the user's texts and on this machine, what is worth having of it, and which one to take.

What was measured is kept as it comes: an interrupted sweep goes on where it was. Every recipe is timed in turns with float32,
so that results of two runs of the command can stand beside each other.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec
import numpy as np

from fletcher import __version__
from fletcher.model_zoo.progress import SILENT, Progress
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.errors import FletcherError, InputError
from fletcher.runtime.machine.machine import this_machine
from fletcher.runtime.providers.cpu_features import lacking
from fletcher.runtime.providers.needs import missing, require
from fletcher.runtime.providers.selection import find_provider
from fletcher.runtime.tuning.history import measuring_key

from ..graph.matrices import float_variant
from ..measure.footprint import footprint
from ..measure.measurement import ROUNDS, Subject, file_bytes, judge, measure_speeds, vectors_of
from ..measure.pairs import LabeledPairs
from ..measure.retrieval import StorageResult, storage_quality
from ..measure.texts import BUILT_IN, SweepTexts, built_in_texts, sweep_texts
from ..quantized_artifact import INSTRUCTIONS, quantize, tool_versions
from ..recipe import Recipe, builtin_recipes, load_recipe
from ..sensitivity import Sensitivity, exclude_greedily, sensitivity
from ..vectors import learn, save
from .recommendation import pareto_front, recommend, worth_keeping
from .results import Point, SweepReport

__all__ = ["ARTIFACT", "STATE", "SweepOptions", "sweep"]

#: What runs float32, and by a recipe's target what runs its graph.
PROVIDER: Final = "mlas"
RUNS_ON: Final[Mapping[str, str]] = MappingProxyType({"cpu": PROVIDER, "openvino": "openvino"})

#: In the sweep's folder: what was measured so far, the chosen artifact, and how stored vectors are read.
STATE, ARTIFACT, VECTORS = "sweep.json", "artifact", "vectors.safetensors"

#: The most promising first, for those who have little time.
ORDER: Final = ("int8-per-token", "mixed", "int8-static", "w8", "w4", "bf16", "fp16", "int8-dynamic")

#: The recipe whose damage by matrix is measured, and shares of its whole damage that exclusions may leave.
BASE: Final = "int8-per-token"
LEFT_SHARES: Final = (0.5, 0.25)

#: Texts that damage by matrix is measured on; and those that `quantize` itself looks at, before `judge` does it in full.
DAMAGE_TEXTS, FIRST_LOOK = 48, 64


class SweepOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a sweep is asked for.

    Attributes:
        min_cosine: smallest cosine with float32 that a recommended recipe may leave any text.
        min_overlap: least share of float32's ten nearest neighbors.
        budget_seconds: no recipe is begun that would end later; None is no limit.
        recipes: names or TOML files; empty is every built-in one for processors (those for OpenVINO where it is installed),
            and exclusions by damage.
        rounds: turns of each timing.
    """

    min_cosine: float = 0.995
    min_overlap: float = 0.95
    budget_seconds: float | None = None
    recipes: tuple[str, ...] = ()
    rounds: int = ROUNDS

    def __post_init__(self) -> None:
        for name in ("min_cosine", "min_overlap"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name):g}, and must be between 0 and 1")


class _State(msgspec.Struct, forbid_unknown_fields=True):
    """What is kept between runs."""

    key: str
    parent: Point | None = None
    points: list[Point] = []
    sensitivity: Sensitivity | None = None
    seconds: float = 0.0


def sweep(
    artifact: Path | Artifact,
    output: Path,
    options: SweepOptions | None = None,
    *,
    texts: Sequence[str] | None = None,
    name: str = BUILT_IN,
    pairs: LabeledPairs | None = None,
    progress: Progress = SILENT,
) -> SweepReport:
    """Tries recipes, and writes the best one's artifact to `output/artifact`.

    Args:
        artifact: with a float32 graph for processors.
        output: the sweep's folder: new, empty, or that of an interrupted sweep of the same.
        options: bounds, budget and recipes; None is the usual ones.
        texts: a quarter calibrates, the others judge; None takes built-in ones.
        name: where the texts come from, for the report.
        pairs: judged pairs, for a rank correlation with the judgment.
        progress: receives a line per step, and counts recipes and matrices.

    Raises:
        InputError: too few texts, all of one length, a recipe that does not exist, or `output` is another sweep's.
        ArtifactError: the artifact has no float32 graph, or was quantized already.
        MissingPackageError: a recipe that was asked for needs OpenVINO, which is not installed.
    """
    options = SweepOptions() if options is None else options
    parent = artifact if isinstance(artifact, Artifact) else Artifact.open(artifact)
    subject = Subject(parent, float_variant(parent), PROVIDER)
    chosen_recipes = [load_recipe(recipe) for recipe in options.recipes]
    if refused := [recipe.name for recipe in chosen_recipes if recipe.target not in RUNS_ON]:
        raise InputError(f"{', '.join(refused)} cannot run here: a sweep tries recipes for {' and '.join(RUNS_ON)}")
    for recipe in chosen_recipes:
        require(find_provider(RUNS_ON[recipe.target]), this_machine())
    shared = sweep_texts(parent, built_in_texts() if texts is None else texts, name=name, pairs=pairs)
    with _state(output, _key(parent, shared, options)) as (state, keep):
        run = _Run(parent, subject, shared, options, output, state, keep, progress)
        return run.run(chosen_recipes)


class _Run:
    """One run of the command."""

    def __init__(
        self,
        parent: Artifact,
        subject: Subject,
        texts: SweepTexts,
        options: SweepOptions,
        output: Path,
        state: _State,
        keep: _Keep,
        progress: Progress,
    ) -> None:
        self._parent = parent
        self._subject = subject
        self._texts = texts
        self._options = options
        self._output = output
        self._state = state
        self._keep = keep
        self._progress = progress
        self._now = ""

    def run(self, recipes: list[Recipe]) -> SweepReport:
        self._progress.line("float32's own vectors, which everything is compared with")
        reference = vectors_of(self._subject, self._texts.judged_ids)
        sample = vectors_of(self._subject, self._texts.calibrating_ids)
        state = self._state
        if state.parent is None:
            state.parent = self._measure_parent(reference)
            self._keep.save()
        candidates = recipes or self._default_recipes()
        done = {point.name for point in state.points}
        if found := [recipe.name for recipe in candidates if recipe.name in done]:
            self._progress.line(f"measured before: {', '.join(found)}")
        not_reached: list[str] = []
        waiting = [recipe for recipe in candidates if recipe.name not in done]
        with self._progress.count(
            "sweeping", total=len(waiting), units=("recipes",), note=lambda: self._now
        ) as counter:
            for recipe in waiting:
                if self._too_late():
                    not_reached.append(recipe.name)
                    continue
                self._now = recipe.name
                state.points.append(self._try(recipe, reference, state.parent))
                self._keep.save()
                counter.advance(1)
            self._now = ""
        storage = self._storage(sample, reference)
        return self._conclude(state.parent, candidates, storage, not_reached)

    def _too_late(self) -> bool:
        budget = self._options.budget_seconds
        if budget is None:
            return False
        expected = max((point.seconds for point in self._state.points), default=0.0)
        return self._keep.elapsed + expected > budget

    def _measure_parent(self, reference: np.ndarray) -> Point:
        started = time.monotonic()
        quality = judge(self._subject, self._texts, reference)
        (speed,) = measure_speeds([self._subject], self._texts.judged_ids, rounds=self._options.rounds)
        return Point(
            name="fp32",
            description="what the others are compared with",
            quality=quality,
            speed=speed,
            file_bytes=file_bytes(self._subject),
            memory_bytes=footprint(self._parent.path, self._subject.variant.name, PROVIDER),
            seconds=round(time.monotonic() - started, 2),
        )

    def _default_recipes(self) -> list[Recipe]:
        """Built-in recipes that this machine can run, and the base one with the matrices left out that suffer most."""
        built_in = builtin_recipes()
        names: list[str] = [name for name in ORDER if name in built_in]
        names += [name for name, recipe in built_in.items() if recipe.target == "cpu" and name not in ORDER]
        machine = this_machine()
        if missing(find_provider(RUNS_ON["openvino"]), machine) is None:
            names[2:2] = [name for name, recipe in built_in.items() if recipe.target == "openvino"]
        able = not lacking(msgspec.structs.replace(self._subject.variant, instructions=(INSTRUCTIONS,)), machine)
        # Seven bits are for processors that lack the instructions for eight.
        unfit = {name for name in names if built_in[name].reduced_range == able and _integers(built_in[name])}
        recipes = [built_in[name] for name in names if name not in unfit]
        base = built_in[BASE if able else f"{BASE}-reduced"]
        return [*recipes[:2], *self._exclusions(base), *recipes[2:]]

    def _exclusions(self, base: Recipe) -> list[Recipe]:
        state = self._state
        if state.sensitivity is None:
            texts = self._texts.calibrating[:DAMAGE_TEXTS]
            state.sensitivity = sensitivity(self._parent, base, texts=texts, progress=self._progress)
            self._keep.save()
        found = state.sensitivity
        whole = sum(max(damage.loss, 0.0) for damage in found.damages)
        recipes: list[Recipe] = []
        for share in LEFT_SHARES:
            names = exclude_greedily(found, whole * share)
            if not names or len(names) >= len(found.damages) or any(recipe.exclude == names for recipe in recipes):
                continue
            recipes.append(
                msgspec.structs.replace(
                    base,
                    name=f"{base.name}-without-{len(names)}",
                    scheme="mixed",
                    exclude=names,
                    description=f"{base.name} without the {len(names)} of {len(found.damages)} matrices that cost most",
                )
            )
        return recipes

    def _try(self, recipe: Recipe, reference: np.ndarray, parent: Point) -> Point:
        """Makes and measures one; a recipe that does not suit the model is a result, too."""
        started = time.monotonic()
        folder = self._output / "work"
        point = Point(name=recipe.name, description=recipe.description, recipe=recipe)
        try:
            self._quantize(recipe, folder)
            made = Artifact.open(folder)
            (variant,) = made.manifest.variants
            provider = RUNS_ON[recipe.target]
            subject = Subject(made, variant, provider)
            quality = judge(subject, self._texts, reference)
            _, speed = measure_speeds([self._subject, subject], self._texts.judged_ids, rounds=self._options.rounds)
            size = file_bytes(subject)
            point = msgspec.structs.replace(
                point,
                quality=quality,
                speed=speed,
                file_bytes=size,
                size=size / parent.file_bytes,
                memory_bytes=footprint(made.path, variant.name, provider),
            )
        except FletcherError as error:
            point = msgspec.structs.replace(point, problem=str(error))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        point = msgspec.structs.replace(point, seconds=round(time.monotonic() - started, 2))
        return msgspec.structs.replace(point, dropped=worth_keeping(point))

    def _quantize(self, recipe: Recipe, folder: Path) -> None:
        quantize(
            self._parent,
            recipe,
            folder,
            texts=self._texts.judged[:FIRST_LOOK],
            calibration=self._texts.calibrating,
        )

    def _storage(self, sample: np.ndarray, reference: np.ndarray) -> list[StorageResult]:
        """What int8 and binary vectors lose, and the calibration to store them with."""
        calibration = learn(sample)
        notes = {"artifact": self._parent.digest, "vectors": str(len(sample))}
        save(calibration, self._output / VECTORS, notes)
        return storage_quality(reference, calibration)

    def _conclude(
        self, parent: Point, candidates: Sequence[Recipe], storage: Sequence[StorageResult], not_reached: Sequence[str]
    ) -> SweepReport:
        state, options = self._state, self._options
        wanted = [recipe.name for recipe in candidates]
        points = sorted(
            (point for point in state.points if point.name in wanted), key=lambda point: wanted.index(point.name)
        )
        kept = [point for point in points if not point.dropped]
        name, sentence = recommend(parent, kept, options.min_cosine, options.min_overlap)
        output = self._parent.path
        if name is not None:
            self._progress.line(f"writing the artifact of {name}")
            output = self._output / ARTIFACT
            recipe = next(point.recipe for point in kept if point.name == name)
            assert recipe is not None
            self._quantize(recipe, output)
        machine = this_machine()
        return SweepReport(
            model=self._parent.manifest.card.name,
            artifact=str(self._parent.path),
            digest=self._parent.digest,
            machine=f"{machine.processor}, {len(machine.processors)} logical processors",
            provider=PROVIDER,
            texts=self._texts.name,
            judged=len(self._texts.judged),
            calibrating=len(self._texts.calibrating),
            pairs=0 if self._texts.pairs is None else len(self._texts.pairs),
            min_cosine=options.min_cosine,
            min_overlap=options.min_overlap,
            parent=parent,
            points=tuple(points),
            front=tuple(pareto_front([parent, *kept])),
            chosen=name,
            sentence=sentence,
            output=str(output),
            sensitivity=state.sensitivity,
            storage=tuple(storage),
            not_reached=tuple(not_reached),
            seconds=round(self._keep.total, 1),
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            tools=tool_versions(),
        )


def _integers(recipe: Recipe) -> bool:
    return recipe.scheme in ("int8-per-token", "int8-static", "int8-dynamic", "mixed")


def _key(parent: Artifact, texts: SweepTexts, options: SweepOptions) -> str:
    """What a measurement depends on. Bounds, budget and the choice of recipes may change between runs."""
    parts = [parent.digest, texts.digest, str(options.rounds), measuring_key(), __version__]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class _Keep:
    """The state's file, and the time that the runs took."""

    def __init__(self, path: Path, state: _State) -> None:
        self._path = path
        self._state = state
        self._before = state.seconds
        self._started = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds of this run."""
        return time.monotonic() - self._started

    @property
    def total(self) -> float:
        """Seconds of all runs."""
        return self._before + self.elapsed

    def save(self) -> None:
        """Writes it, whole or not at all."""
        self._state.seconds = self.total
        temporary = self._path.with_name(f".{self._path.name}.new")
        temporary.write_bytes(msgspec.json.encode(self._state))
        temporary.replace(self._path)


@contextmanager
def _state(output: Path, key: str) -> Iterator[tuple[_State, _Keep]]:
    """The folder's state.

    Raises:
        InputError: the folder is something else, or another sweep's.
    """
    path = output / STATE
    if path.is_file():
        try:
            state = msgspec.json.decode(path.read_bytes(), type=_State)
        except msgspec.MsgspecError as error:
            raise InputError(f"{path} is no sweep of this version: {error}. Take another folder") from error
        if state.key != key:
            raise InputError(
                f"{output} holds a sweep of another artifact, of other texts, or of another machine: its results cannot "
                "stand beside these. Take another folder, or remove it"
            )
    else:
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise InputError(f"{output} exists and is no sweep: take another folder")
        output.mkdir(parents=True, exist_ok=True)
        state = _State(key)
    shutil.rmtree(output / "work", ignore_errors=True)
    keep = _Keep(path, state)
    keep.save()
    yield state, keep
    keep.save()
