"""Sweep of the real MiniLM: candidates, recommendation, report, and interruption."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from html import unescape
from pathlib import Path

import msgspec
import numpy as np
import pytest

from fletcher.convert.texts import SENTENCES
from fletcher.model_zoo.progress import SILENT
from fletcher.quantize.measure.pairs import read_pairs
from fletcher.quantize.measure.runnable_variant import RunnableVariant
from fletcher.quantize.measure.speed import Speed
from fletcher.quantize.measure.spread import Spread
from fletcher.quantize.measure.texts import split_texts
from fletcher.quantize.recipe import Recipe
from fletcher.quantize.reports.sweep_page import sweep_to_html
from fletcher.quantize.reports.sweep_table import render_sweep
from fletcher.quantize.sensitivity import Damage, Sensitivity
from fletcher.quantize.sweep import further_rounds
from fletcher.quantize.sweep import recipes as sweep_recipes
from fletcher.quantize.sweep import sweep as quantize_sweep
from fletcher.quantize.sweep.further_rounds import measure_rivals
from fletcher.quantize.sweep.inputs import SweepInputs
from fletcher.quantize.sweep.options import SweepOptions
from fletcher.quantize.sweep.results import Candidate, SweepReport
from fletcher.quantize.sweep.state import STATE
from fletcher.quantize.sweep.sweep import ARTIFACT, sweep
from fletcher.quantize.sweep.ties import rivals
from fletcher.runtime import Encoder
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.errors import ArtifactError, InputError
from tests.look import check_look, check_rendered

from .candidates import candidate, timing

RECIPES = ("int8-per-token", "bf16")
QUICK = SweepOptions(recipes=RECIPES, rounds=1, tie_seconds=0, min_overlap=0.8)


@functools.cache
def texts(count: int = 160) -> list[str]:
    """Return different texts: sentences, and halves of two sentences that are joined."""
    words = [sentence.split() for sentence in SENTENCES]
    joined = (
        " ".join(first[: len(first) // 2] + second[len(second) // 2 :])
        for shift in range(1, len(words))
        for first, second in zip(words, words[shift:] + words[:shift], strict=True)
    )
    return list(dict.fromkeys([*map(" ".join, words), *joined]))[:count]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, minilm_artifact: Path) -> tuple[SweepReport, Path]:
    """Return a finished sweep, which tests must not change."""
    output = tmp_path_factory.mktemp("sweep") / "out"
    pairs = output.parent / "pairs.tsv"
    pairs.write_text("".join(f"{row % 5}\t{texts()[row]}\t{texts()[row + 1]}\n" for row in range(12)))
    report = sweep(minilm_artifact, output, QUICK, texts=texts(), name="texts.txt", pairs=read_pairs(pairs))
    return report, output


def test_every_candidate_is_compared_with_float32(swept: tuple[SweepReport, Path]) -> None:
    report, _ = swept
    assert [candidate.name for candidate in report.candidates] == [*RECIPES]
    assert report.parent.quality is not None and report.parent.quality.cosine_min == pytest.approx(1.0, abs=1e-9)
    int8 = report.candidates[0]
    assert int8.quality is not None and int8.speed is not None and int8.memory_bytes
    assert int8.size < 0.3
    assert int8.quality.cosine_mean >= 0.997
    assert len(int8.quality.cosines) == report.measured == 120
    assert report.calibrating == 40
    assert int8.quality.pairs is not None and report.pairs == 12


def test_the_chosen_artifact_has_the_recommended_recipe_and_runs(
    swept: tuple[SweepReport, Path], minilm_artifact: Path
) -> None:
    report, output = swept
    assert report.chosen in RECIPES and report.chosen in report.sentence
    artifact = Artifact.open(output / ARTIFACT)
    assert artifact.manifest.parent == Artifact.open(minilm_artifact).digest
    assert artifact.manifest.variants[0].precision == report.chosen
    with Encoder.load(minilm_artifact, provider="mlas") as encoder:
        reference = encoder.embed(texts()[:20]).vectors
    with Encoder.load(output / ARTIFACT, provider="mlas") as encoder:
        vectors = encoder.embed(texts()[:20]).vectors
    assert np.sum(vectors * reference, axis=1).min() >= report.min_cosine
    assert not (output / "work").exists()


def test_stored_vectors_are_measured(swept: tuple[SweepReport, Path]) -> None:
    results = {(result.comparing, result.rescoring): result for result in swept[0].storage}
    assert results["cosine", "none"].overlap >= 0.97 > results["dot", "none"].overlap
    assert results["hamming", "float32"].overlap > results["hamming", "none"].overlap


def test_the_page_begins_with_the_recommendation(swept: tuple[SweepReport, Path], tmp_path: Path) -> None:
    page = sweep_to_html(swept[0])
    assert check_look(page).rstrip(".") == swept[0].sentence.rstrip(".")
    check_rendered(page, tmp_path)


def test_the_page_needs_no_network_and_escapes_what_it_shows(swept: tuple[SweepReport, Path]) -> None:
    report = msgspec.structs.replace(swept[0], texts="<script>alert(1)</script>")
    page = sweep_to_html(report)
    assert "<script" not in page
    assert "http://" not in page and "https://" not in page
    assert page.count("<svg") == 2
    for point in report.candidates:
        assert point.name in page and point.description in page


def test_the_page_says_how_far_float32_s_vectors_are_proven(swept: tuple[SweepReport, Path]) -> None:
    report = msgspec.structs.replace(swept[0], proof="verified by sentence-transformers on 9 texts")
    assert swept[0].proof.startswith("published: ")  # all-MiniLM-L6-v2 is in the zoo
    assert "Its canary: verified by sentence-transformers on 9 texts." in unescape(sweep_to_html(report))


def test_the_page_explains_its_words(swept: tuple[SweepReport, Path]) -> None:
    page = unescape(sweep_to_html(swept[0]))
    for words in (
        "throughput<small>16 tokens</small>",
        "latency<small>12 tokens</small>",
        "99 of 100 texts have a higher one",
        "all 7,140 pairs of 120 texts",
        "fp16 and bf16 halve the file and not the memory",
        "dot product of the int8 codes as they are, without scales",
        "the best 40: the float32 query",
        "set the database to cosine",
    ):
        assert words in page


def test_the_page_gives_every_ratio_with_its_range(swept: tuple[SweepReport, Path]) -> None:
    report = swept[0]
    ratio = Spread(median=1.5, low=1.23, high=1.87, rounds=(1.23, 1.5, 1.87))
    candidates = [
        msgspec.structs.replace(point, speed=msgspec.structs.replace(point.speed, long_ratio=ratio))
        for point in report.candidates
        if point.speed is not None
    ]
    report = msgspec.structs.replace(report, candidates=tuple(candidates))
    assert sweep_to_html(report).count("1.50<small>1.23–1.87</small>") == len(RECIPES)
    rows = render_sweep(report).rows
    assert [row[6] for row in rows[1:]] == ["1.50 (1.23-1.87)"] * len(RECIPES)
    assert json.loads(msgspec.json.encode(report))["points"][0]["speed"]["long_ratio"]["high"] == 1.87


def test_only_recipes_within_the_bounds_have_a_star(
    swept: tuple[SweepReport, Path], minilm_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, output = swept
    strict = msgspec.structs.replace(QUICK, min_cosine=1.0, recipes=(RECIPES[0],))
    copy = output.parent / "strict"
    shutil.copytree(output, copy)
    pairs = read_pairs(output.parent / "pairs.tsv")
    report = sweep(minilm_artifact, copy, strict, texts=texts(), name="texts.txt", pairs=pairs)
    assert report.pareto_front == ("fp32",) and report.chosen is None
    assert f"{RECIPES[0]} ★" not in sweep_to_html(report)


@pytest.mark.parametrize("tie_seconds", [0.0, 60.0])
def test_recipes_of_overlapping_speeds_are_measured_again_while_time_is_left(
    tiny_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tie_seconds: float
) -> None:
    """The first rounds cannot tell `bf16` from the faster and less accurate `int8-per-token`; the later ones can."""
    tried: list[str] = []
    again: list[list[str]] = []
    _fake(monkeypatch, tried, figures={"int8-per-token": (0.998, 2.1), "bf16": (0.999, 1.9)}, noise=0.2)

    def measure(
        inputs: SweepInputs, runnables: Mapping[str, RunnableVariant], speeds: Mapping[str, Speed], seconds: float
    ) -> dict[str, Speed]:
        again.append(list(runnables))
        assert seconds <= 60.0
        assert all(runnable.variant.precision == name for name, runnable in runnables.items())
        return {"int8-per-token": timing(2.1, 0.01), "bf16": timing(1.9, 0.01)}

    monkeypatch.setattr(further_rounds, "measure_rivals", measure)
    options = msgspec.structs.replace(QUICK, tie_seconds=tie_seconds)
    # The tiny model cuts texts at 20 tokens, and calibration needs different lengths.
    short = [" ".join([str(row), *text.split()[: row % 9]]) for row, text in enumerate(texts())]
    report = sweep(tiny_artifact, tmp_path / "out", options, texts=short)
    assert again == ([["int8-per-token", "bf16"]] if tie_seconds else [])
    assert report.chosen == ("int8-per-token" if tie_seconds else "bf16")
    assert report.equals == (() if tie_seconds else ("int8-per-token",))
    assert (report.tie_seconds > 0) == bool(tie_seconds)
    # The measurements are kept: the same command measures nothing again.
    assert sweep(tiny_artifact, tmp_path / "out", options, texts=short).chosen == report.chosen
    assert len(again) == bool(tie_seconds)


def test_further_rounds_end_when_recipes_are_told_apart_or_the_time_is_over(
    minilm_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[list[int]] = []

    class Meter:
        """Ranges that halve with every round."""

        def turn(self, indices: list[int]) -> None:
            turns.append(indices)

        def speed(self, index: int) -> Speed:
            return timing(2.0 if index == 1 else 1.8, 0.4 / 2 ** len(turns))

    monkeypatch.setattr(further_rounds, "open_meter", lambda runnables, texts: nullcontext(Meter()))
    monkeypatch.setattr(further_rounds, "join", lambda before, after: after)
    artifact = Artifact.open(minilm_artifact)
    parent = RunnableVariant(artifact, artifact.manifest.variants[0], "mlas")
    inputs = SweepInputs(parent, split_texts(artifact, texts(), name="texts"), QUICK, minilm_artifact, SILENT)
    runnables, speeds = {"a": parent, "b": parent}, {"a": timing(2.0, 0.4), "b": timing(1.8, 0.4)}
    measured = measure_rivals(inputs, runnables, speeds, 60.0)
    assert turns == [[1, 2]] * 3  # 2.0 and 1.8 are distinguished once the ranges are 5 % wide
    assert rivals(measured) == []
    turns.clear()
    assert measure_rivals(inputs, runnables, speeds, 0.0) == speeds and not turns


def test_a_second_run_repeats_no_measurement(
    swept: tuple[SweepReport, Path], minilm_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, output = swept

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(quantize_sweep, "measure_speeds", refuse)
    pairs = read_pairs(output.parent / "pairs.tsv")
    again = sweep(minilm_artifact, output, QUICK, texts=texts(), name="texts.txt", pairs=pairs)
    assert again.candidates == report.candidates and again.sentence == report.sentence


def test_an_interrupted_sweep_is_resumed(tiny_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "out"
    tried: list[str] = []
    _fake(monkeypatch, tried, fail="bf16")
    with pytest.raises(KeyboardInterrupt):
        sweep(tiny_artifact, output, QUICK, texts=texts())
    assert tried == ["int8-per-token", "bf16"]
    assert not (output / ARTIFACT).exists()
    _fake(monkeypatch, tried)
    report = sweep(tiny_artifact, output, QUICK, texts=texts())
    assert tried == ["int8-per-token", "bf16", "bf16"]
    assert [candidate.name for candidate in report.candidates] == [*RECIPES]


def test_a_budget_skips_recipes_and_reports_them(
    minilm_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    _fake(monkeypatch, tried, seconds=1000.0)
    options = msgspec.structs.replace(QUICK, budget_seconds=900.0)
    report = sweep(minilm_artifact, tmp_path / "out", options, texts=texts())
    assert tried == ["int8-per-token"]
    assert report.not_reached == ("bf16",)


@pytest.mark.parametrize("problem", [None, "openvino is not installed"])
def test_the_recipe_of_openvino_is_tried_if_openvino_is_installed(
    minilm_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: str | None
) -> None:
    tried: list[str] = []
    _fake(monkeypatch, tried)
    damages = (Damage("layers.0.feed_forward.down", "int8-per-token", 2e-4, 1e-3, 0.1),)
    monkeypatch.setattr(quantize_sweep, "sensitivity", lambda *_, **__: Sensitivity("m", "int8-per-token", 48, damages))
    monkeypatch.setattr(sweep_recipes, "missing", lambda provider, machine: problem)
    sweep(minilm_artifact, tmp_path / "out", msgspec.structs.replace(QUICK, recipes=()), texts=texts())
    assert ("openvino-static" in tried) == (problem is None)
    assert {"mixed", "w4", "bf16"} <= set(tried) and "cuda-qdq" not in tried and "coreml-w8" not in tried


def _fake(
    monkeypatch: pytest.MonkeyPatch,
    tried: list[str],
    *,
    fail: str = "",
    seconds: float = 1.0,
    figures: Mapping[str, tuple[float, float]] | None = None,
    noise: float = 0.0,
) -> None:
    """Replace the trial of recipes by a function that takes no time and records their order.

    `figures` are cosine and speed by name.
    """

    def attempt(self: object, recipe: Recipe, *_: object) -> Candidate:
        tried.append(recipe.name)
        if recipe.name == fail:
            raise KeyboardInterrupt
        cosine, speed = (figures or {}).get(recipe.name, (0.5, 0.5))
        result = candidate(recipe.name, cosine, speed, 0.5, noise=noise)
        return msgspec.structs.replace(result, recipe=recipe, seconds=seconds)

    parent = candidate("fp32", 1.0, 1.0, 1.0)
    monkeypatch.setattr(quantize_sweep._Run, "_try", attempt)
    monkeypatch.setattr(quantize_sweep._Run, "_measure_parent", lambda self, reference: parent)


def test_a_recipe_that_fails_has_a_result(tiny_artifact: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "wild.toml"
    recipe.write_text('name = "wild"\nscheme = "mixed"\nexclude = ["layers.99.*"]\n')
    options = msgspec.structs.replace(QUICK, recipes=(str(recipe),))
    report = sweep(tiny_artifact, tmp_path / "out", options, texts=texts())
    assert report.chosen is None and report.output == str(tiny_artifact)
    assert "layers.99.*" in report.candidates[0].problem
    assert "layers.99.*" in sweep_to_html(report)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([f"text {n} of forty" for n in range(40)], "40 different texts are too few"),
        ([f"word {chr(97 + n % 26)}" for n in range(26)] * 9, "too few"),
    ],
)
def test_too_few_texts(minilm_artifact: Path, tmp_path: Path, texts: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        sweep(minilm_artifact, tmp_path / "out", QUICK, texts=texts)
    assert not (tmp_path / "out").exists()


def test_texts_of_one_length(minilm_artifact: Path, tmp_path: Path) -> None:
    texts = [f"{n}" for n in range(100, 300)]
    with pytest.raises(InputError, match="every text has 3 tokens"):
        sweep(minilm_artifact, tmp_path / "out", QUICK, texts=texts)


def test_artifacts_that_cannot_be_swept(swept: tuple[SweepReport, Path], minilm_artifact: Path, tmp_path: Path) -> None:
    _, output = swept
    with pytest.raises(ArtifactError, match="quantized already"):
        sweep(output / ARTIFACT, tmp_path / "again", QUICK, texts=texts())
    with pytest.raises(InputError, match="another artifact, of other texts"):
        sweep(minilm_artifact, output, QUICK, texts=texts(200)[40:])
    with pytest.raises(InputError, match="no recipe 'nothing'"):
        sweep(minilm_artifact, tmp_path / "x", msgspec.structs.replace(QUICK, recipes=("nothing",)), texts=texts())
    with pytest.raises(InputError, match="cuda-qdq cannot run here"):
        sweep(minilm_artifact, tmp_path / "x", msgspec.structs.replace(QUICK, recipes=("cuda-qdq",)), texts=texts())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match="exists and has no sweep"):
        sweep(minilm_artifact, tmp_path / "full", QUICK, texts=texts())
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / STATE).write_text("{")
    with pytest.raises(InputError, match="not a sweep of this version"):
        sweep(minilm_artifact, tmp_path / "broken", QUICK, texts=texts())
    with pytest.raises(InputError, match="must be between 0 and 1"):
        SweepOptions(min_cosine=1.5)


@pytest.mark.slow
def test_the_command_writes_all_files(minilm_artifact: Path, tmp_path: Path) -> None:
    """The default sweep, as a user starts it, takes at most ten minutes on two cores."""
    command = str(Path(sys.executable).parent / "fletcher-convert")
    output = tmp_path / "out"
    args = [
        "quantize",
        "sweep",
        str(minilm_artifact),
        "-o",
        str(output),
        "--report",
        str(tmp_path / "r.html"),
        "--json",
    ]
    done = subprocess.run([command, *args], capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["seconds"] <= 600
    assert report["chosen"] and report["sensitivity"]
    assert (tmp_path / "r.html").read_text().count("<svg") == 3
    assert {path.name for path in output.iterdir()} == {
        STATE,
        ARTIFACT,
        "report.html",
        "report.json",
    }
