"""Whole trainings of tiny models: data, artifacts, figures and reports of every method."""

from __future__ import annotations

import html
import json
import resource
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from typer.testing import CliRunner

from fletcher.convert.commands.cli import app
from fletcher.convert.tune.contrastive import check_lengths, ranking_data, training_columns, tune_contrastive
from fletcher.convert.tune.data.examples import Example
from fletcher.convert.tune.options import (
    ContrastiveOptions,
    DistilOptions,
    OutputOptions,
    SplitOptions,
    TrainingOptions,
)
from fletcher.convert.tune.outcome.results import TuneReport
from fletcher.convert.tune.outline import Work, begin_training, calibration_texts
from fletcher.convert.tune.request import TuneRequest
from fletcher.convert.tune.reranking import tune_on_reranker
from fletcher.convert.tune.teaching import tune_aware, tune_distil
from fletcher.model_zoo.progress import SILENT
from fletcher.quantize.measure.pairs import LabeledPairs
from fletcher.runtime import Artifact, Encoder
from fletcher.runtime.commandline.options import Settings
from fletcher.runtime.corpora import corpus
from fletcher.runtime.errors import InputError, OptionError

from ..tiny import save_embedder

#: Random weights give all texts nearly the same direction.
SPLIT = SplitOptions(held_out=0.2, duplicate_cosine=1.0)
TRAINING = TrainingOptions(steps=12, batch_size=16, mini_batch_size=8, learning_rate=1e-3, evaluations=2, patience=0)


def texts(count: int = 200) -> list[str]:
    return corpus("sentences", count)


def halves(count: int = 200) -> list[dict[str, Any]]:
    return [{"query": text[: len(text) // 2], "positive": text[len(text) // 2 :]} for text in texts(count)]


def write(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# Columns ----------------------------------------------------------------------------------------------------------------


def test_columns_have_the_same_number_of_negatives() -> None:
    train = [Example("q0", "d0", ("n0", "held", "n1", "n2")), Example("q1", "d1", ("n3", "d9")), Example("q1", "d9")]
    columns = training_columns(train, 2, {"held"}, seed=0)
    assert {name: column[:2] for name, column in columns.items()} == {
        "query": ["q0", "q1"],
        "positive": ["d0", "d1"],
        "negative_1": ["n0", "n3"],
        "negative_2": ["n1", "n3"],  # d9 belongs to q1, too
    }
    assert {columns["negative_1"][2], columns["negative_2"][2]} <= {"d0"}  # positives of other queries
    assert list(training_columns(train, 0, set(), 0)) == ["query", "positive"]
    assert training_columns([Example("a", "b", (), 0.5)], 3, set(), 0)["label"] == [0.5]


def test_ranking_has_all_positives_of_a_query() -> None:
    asked = [Example("q0", "d0", ("n0",)), Example("q0", "d1"), Example("q1", "d0")]
    data = ranking_data(asked, [Example("q2", "d2"), Example("q3", "n0")])
    assert (data.queries, data.documents) == (("q0", "q1"), ("d0", "n0", "d1", "d2"))
    assert data.relevant == ((0, 2), (0,))


def test_students_and_lengths_that_contradict_each_other() -> None:
    with pytest.raises(OptionError, match="choose a student"):
        DistilOptions()
    with pytest.raises(OptionError, match="two kinds of students"):
        DistilOptions(layers=1, student="x")
    with pytest.raises(OptionError, match="write whole numbers"):
        ContrastiveOptions(dimensions="16,x")
    assert ContrastiveOptions(dimensions="8, 16").lengths == (16, 8)


@pytest.mark.parametrize(
    ("fields", "options", "message"),
    [
        ({"max_tokens": 21}, {}, "--max-tokens 21: the model's longest input has 20 tokens"),
        ({}, {"dimensions": "32"}, "--dimensions 32: .* has 32 dimensions; choose fewer"),
    ],
)
def test_options_that_do_not_fit_the_model_are_found_before_the_conversion(
    fields: dict[str, Any], options: dict[str, Any], message: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    work = Work("contrastive", [], check=partial(check_lengths, ContrastiveOptions(**options)))
    request = TuneRequest(str(tiny_checkpoint), tmp_path / "out", tmp_path / "data", training=TrainingOptions(**fields))
    with pytest.raises(InputError, match=message):
        begin_training(request, work, SILENT)
    assert not (tmp_path / "out").exists()


def test_texts_of_one_length_are_found_before_the_training(tiny_checkpoint: Path, tmp_path: Path) -> None:
    request = TuneRequest(str(tiny_checkpoint), tmp_path / "out", tmp_path / "data")
    begun = begin_training(request, Work("distil", []), SILENT)
    long = [f"{text} and much more than the twenty tokens that this model reads, {text}" for text in texts(60)]
    with pytest.raises(InputError, match=r"all 60 calibration texts have 20 tokens.* or choose --recipe none"):
        calibration_texts(begun, long)
    assert calibration_texts(begun, texts(60)) == texts(60)
    none = replace(begun, recipe=None)
    assert calibration_texts(none, long) == long


def test_models_without_vectors_are_not_trained(tmp_path: Path) -> None:
    import transformers

    folder = save_embedder(tmp_path / "judge")
    config = transformers.AutoConfig.from_pretrained(folder, num_labels=1)
    for name in ("modules.json", "sentence_bert_config.json"):
        (folder / name).unlink()
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    with pytest.raises(InputError, match="judge gives scores, and only models of vectors are trained"):
        begin_training(TuneRequest(str(folder), tmp_path / "out", tmp_path), Work("qat", []), SILENT)
    assert not (tmp_path / "out").exists()


# Trainings --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def training_packages() -> None:
    for name in ("accelerate", "datasets", "peft"):
        pytest.importorskip(name)


def encoder_of(folder: Path | str) -> Any:
    return SentenceTransformer(str(folder), device="cpu")[0].model


def first_weight(folder: Path) -> NDArray[np.float32]:
    """Return the weight of the second feed-forward layer of the first layer."""
    weight: NDArray[np.float32] = encoder_of(folder).encoder.layer[0].output.dense.weight.detach().numpy()
    return weight


def check(report: TuneReport, folder: Path, graphs: Sequence[str]) -> None:
    """Check the artifacts, and compare the float32 one with the tuned checkpoint in sentence-transformers."""
    assert [one.graph for one in report.artifacts] == list(graphs)
    for one in report.artifacts:
        artifact = Artifact.open(one.path)
        assert (artifact.digest, one.status) == (one.digest, "verified")
        assert artifact.manifest.card.name == f"{report.model}-tuned"
    model = SentenceTransformer(report.checkpoint, device="cpu")
    with Encoder.load(folder / "float32") as encoder:
        found = encoder.embed(texts(20), input_type="raw").vectors
    assert found == pytest.approx(model.encode(texts(20)), abs=1e-5)
    assert report.training.steps == 12


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("training_packages")
@pytest.mark.parametrize("lora", [None, 4])
def test_contrastive_with_lengths_and_negatives(lora: int | None, tiny_checkpoint: Path, tmp_path: Path) -> None:
    rows = halves()
    for row, other in zip(rows, reversed(rows), strict=True):
        row["negatives"] = [other["positive"]]
    data = write(tmp_path / "mined.jsonl", rows)
    request = TuneRequest(str(tiny_checkpoint), tmp_path / "out", data, SPLIT, TRAINING)
    report = tune_contrastive(request, ContrastiveOptions(dimensions="16,8", lora=lora))
    check(report, tmp_path / "out", ["float32", "int8-per-token"])
    assert report.data.kind == "triplets"
    figures = ["nDCG@10", "nDCG@10, 16 dimensions", "nDCG@10, 8 dimensions"]
    graphs = ["float32", "int8-per-token"]
    assert [(gain.name, gain.graph) for gain in report.gains] == [(name, graph) for graph in graphs for name in figures]
    assert Artifact.open(tmp_path / "out" / "float32").manifest.card.matryoshka == (16, 8)
    weights = [first_weight(folder) for folder in (tiny_checkpoint, tmp_path / "out" / "checkpoint")]
    change = weights[1] - weights[0]
    assert np.abs(change).max() > 1e-4
    if lora is not None:
        assert np.linalg.matrix_rank(change, tol=1e-5) <= lora
    first, second = report.artifacts[0].exactness, report.artifacts[1].exactness
    assert (first.texts, second.texts) == (32, 0)
    assert first.largest < 1e-5
    again = tune_contrastive(request, ContrastiveOptions(dimensions="16,8", lora=lora))  # it is finished
    assert again.training == report.training
    assert [one.digest for one in again.artifacts] == [one.digest for one in report.artifacts]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("training_packages")
@pytest.mark.parametrize("loss", ["cosent", "angle"])
def test_scored_pairs(loss: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    rows = [row | {"score": len(row["query"]) % 5} for row in halves()]
    data = write(tmp_path / "scored.jsonl", rows)
    request = TuneRequest(
        str(tiny_checkpoint), tmp_path / "out", data, SPLIT, TRAINING, OutputOptions(recipe="none", verify=True)
    )
    report = tune_contrastive(request, ContrastiveOptions.of(ContrastiveOptions(), scored_loss=loss))
    check(report, tmp_path / "out", ["float32"])
    assert (report.data.kind, report.training.metric) == ("scored", "rank correlation")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("training_packages")
def test_quantization_aware(tiny_checkpoint: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "texts.jsonl", [{"text": text} for text in texts()])
    pairs = LabeledPairs(np.arange(20.0), tuple(texts(20)), tuple(texts(40)[20:]))
    request = TuneRequest(
        str(tiny_checkpoint), tmp_path / "out", data, SPLIT, TRAINING.replace(learning_rate=1e-4), pairs=pairs
    )
    report = tune_aware(request)
    check(report, tmp_path / "out", ["float32", "int8-per-token"])
    int8 = report.artifacts[1].exactness
    assert int8.texts > 10
    assert int8.median < 1e-4
    assert int8.settled is not None and int8.ties is not None
    assert int8.settled < 1e-4  # all texts
    assert 0 <= int8.ties < 1e-3
    assert [gain.name for gain in report.gains] == [
        "teacher's ten neighbors",
        "cosine with the teacher",
        "rank correlation of --pairs",
    ]
    assert {gain.graph for gain in report.gains} == {"int8-per-token"}
    # The reported figure is that of the written artifacts.
    with Encoder.load(tmp_path / "out" / "base") as base:
        first, second = (base.embed(part, input_type="raw").vectors for part in (pairs.first, pairs.second))
    expected = np.corrcoef(np.argsort(np.argsort((first * second).sum(axis=1))), np.arange(20))[0, 1]
    assert report.gains[2].reference == pytest.approx(expected)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("training_packages")
def test_fewer_layers_come_near_the_teacher(tiny_checkpoint: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "texts.jsonl", [{"text": text} for text in texts(400)])
    training = TRAINING.replace(steps=60, learning_rate=3e-3)
    request = TuneRequest(str(tiny_checkpoint), tmp_path / "out", data, SPLIT, training, OutputOptions(recipe="none"))
    report = tune_distil(request, DistilOptions(layers=1))
    gain = {one.name: one for one in report.gains}["cosine with the teacher"]
    assert gain.verdict == "better"
    assert gain.after.value > gain.before.value + 0.01
    assert encoder_of(report.checkpoint).config.num_hidden_layers == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("training_packages")
def test_a_student_with_fewer_dimensions(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

    modules = [Transformer(str(tiny_checkpoint)), Pooling(32, pooling_mode="mean"), Dense(32, 16), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "student"), create_model_card=False)
    data = write(tmp_path / "texts.jsonl", [{"text": text} for text in texts()])
    request = TuneRequest(
        str(tiny_checkpoint), tmp_path / "out", data, SPLIT, TRAINING, OutputOptions(recipe="none", verify=False)
    )
    report = tune_distil(request, DistilOptions(student=str(tmp_path / "student")))
    assert [gain.name for gain in report.gains] == ["teacher's ten neighbors"]
    assert Artifact.open(tmp_path / "out" / "float32").manifest.card.dimension == 16


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("training_packages")
@pytest.mark.parametrize("kind", ["checkpoint", "artifact"])
def test_scores_of_a_reranker(kind: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    import torch
    import transformers

    from fletcher.convert.export.export import export

    torch.manual_seed(3)
    folder = save_embedder(tmp_path / "judge")
    config = transformers.AutoConfig.from_pretrained(folder, num_labels=1)
    model = transformers.BertForSequenceClassification(config)
    model.bert.load_state_dict(transformers.BertModel.from_pretrained(folder).state_dict())
    for name in ("modules.json", "sentence_bert_config.json"):
        (folder / name).unlink()
    model.save_pretrained(folder)
    judge = folder
    if kind == "artifact":
        judge = tmp_path / "reranker"
        export(str(folder), judge, verify=False)
    rows = halves()
    for row, other in zip(rows, reversed(rows), strict=True):
        row["negatives"] = [other["positive"], other["query"]]
    data = write(tmp_path / "mined.jsonl", rows)
    request = TuneRequest(
        str(tiny_checkpoint), tmp_path / "out", data, SPLIT, TRAINING, OutputOptions(recipe="none", verify=True)
    )
    report = tune_on_reranker(request, DistilOptions(reranker=str(judge)))
    check(report, tmp_path / "out", ["float32"])
    assert (report.data.kind, report.gains[0].name) == ("reranker scores", "order of the reranker")
    plain = TuneRequest(str(tiny_checkpoint), tmp_path / "plain", write(tmp_path / "pairs.jsonl", halves()))
    with pytest.raises(InputError, match="has no negatives to score"):
        tune_on_reranker(plain, DistilOptions(reranker=str(judge)))


class FullDisk(type(SILENT)):  # type: ignore[misc]
    """Progress that limits the size of files when the conversion of the tuned model begins."""

    def line(self, text: str) -> None:
        if text == "converting the tuned model":
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("training_packages")
def test_a_full_disk_after_the_training_does_not_lose_it(tiny_checkpoint: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "pairs.jsonl", halves())
    options = OutputOptions(recipe="none", verify=False)
    request = TuneRequest(str(tiny_checkpoint), tmp_path / "out", data, SPLIT, TRAINING, options)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(InputError, match=r"no space is left for the tuned model in .* The training is kept"):
            tune_contrastive(request, progress=FullDisk())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    training = tmp_path / "out" / "training"
    assert (training / "trained.json").is_file() and list(training.glob("checkpoint-*"))
    report = tune_contrastive(request)
    assert (report.training.steps, report.training.resumed_from) == (12, None)  # not one step was computed again


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("training_packages")
def test_the_command_writes_the_report(tiny_checkpoint: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "texts.jsonl", [{"text": text} for text in texts()])
    command = [
        "tune",
        "distil",
        str(tiny_checkpoint),
        "-o",
        str(tmp_path / "out"),
        "--data",
        str(data),
        "--layers",
        "1",
    ]
    options = ["--steps", "4", "--evaluations", "2", "--duplicate-cosine", "1", "--held-out", "0.2", "--recipe", "none"]
    result = CliRunner().invoke(app, [*command, *options], obj=Settings("fletcher-convert", as_json=True))
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["method"], report["training"]["steps"]) == ("distil", 4)
    assert html.escape(report["sentence"]) in (tmp_path / "out" / "report.html").read_text()
    other = CliRunner().invoke(app, [*command, "--steps", "5"], obj=Settings("fletcher-convert"))
    assert isinstance(other.exception, InputError)
    assert "with other options" in str(other.exception)
