"""Mining of hard negatives: windows and margins worked out by hand, files, and sentence-transformers as the reference."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import transformers
from typer.testing import CliRunner

from fletcher.convert.commands.cli import app
from fletcher.convert.export.export import export
from fletcher.convert.texts import SENTENCES
from fletcher.convert.tune.data.examples import Example, read_positive_pairs
from fletcher.convert.tune.mining import files as files_module
from fletcher.convert.tune.mining.files import CorpusFile
from fletcher.convert.tune.mining.mine import choose_negatives, mine_negatives
from fletcher.convert.tune.mining.options import MiningOptions
from fletcher.runtime import Encoder
from fletcher.runtime.commandline.options import Settings
from fletcher.runtime.errors import InputError

from ...tiny import save_embedder

SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], np.float32)
POSITIVES = np.array([0.95, 0.85], np.float32)


@pytest.mark.parametrize(
    ("options", "chosen"),
    [
        (MiningOptions(relative_margin=None), [0, 1, 2]),
        (MiningOptions(), [2, 3, 4]),  # at most .85 · .9
        (MiningOptions(range_min=2, relative_margin=None), [2, 3, 4]),
        (MiningOptions(range_min=2, range_max=4, num_negatives=2, relative_margin=None), [2, 3]),
        (MiningOptions(absolute_margin=0.2), [3, 4, 5]),  # at most .85 - .2
        (MiningOptions(absolute_margin=0.2, range_min=1), [4, 5]),  # the window counts what is left
        (MiningOptions(relative_margin=0.4), [4, 5]),  # at most .85 · .6
        (MiningOptions(max_score=0.65, min_score=0.45), [3, 4]),
        (MiningOptions(max_score=0.1), []),
    ],
)
def test_windows_margins_and_bounds(options: MiningOptions, chosen: list[int]) -> None:
    assert choose_negatives(SCORES, POSITIVES, options, random.Random(0))[0] == chosen


def test_a_relative_margin_of_a_negative_score_lowers_the_bound() -> None:
    scores = np.array([-0.9, -1.05, -1.2], np.float32)
    options = MiningOptions(relative_margin=0.1)
    assert choose_negatives(scores, np.array([-1.0]), options, random.Random(0)) == ([2], 2)  # at most -1.1


def test_random_sampling_stays_in_the_window() -> None:
    options = MiningOptions(sampling="random", num_negatives=2, range_min=1, range_max=5, relative_margin=None)
    found = {tuple(choose_negatives(SCORES, POSITIVES, options, random.Random(seed))[0]) for seed in range(50)}
    assert {place for places in found for place in places} == {1, 2, 3, 4}
    assert all(first < second for first, second in found)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_negatives": 0}, "num_negatives is 0"),
        ({"range_min": -1}, "range_min is -1"),
        ({"range_min": 5, "range_max": 6}, "have no room for 3 negatives"),
        ({"sampling": "best"}, "choose top or random"),
    ],
)
def test_options_have_bounds(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MiningOptions(**fields)  # type: ignore[arg-type]


def texts() -> list[str]:
    return [sentence[:18].strip() for sentence in SENTENCES if sentence.isascii()]


def write_corpus(path: Path, lines: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return path


def pairs() -> list[Example]:
    """Return each text's beginning with the text itself, and a second positive for the first query."""
    given = [Example(text[:9], text) for text in texts()[:10]]
    return [*given, Example(given[0].query, texts()[1])]


def test_copies_positives_and_the_query_are_not_negatives(
    tiny_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files_module, "CHUNK", 7)  # copies in other chunks
    lines = [*texts(), "", *texts()[:5], texts()[0][:9]]
    corpus, options = write_corpus(tmp_path / "c.jsonl", lines), MiningOptions(relative_margin=None)
    report = mine_negatives(tiny_artifact, pairs(), corpus, tmp_path / "out.jsonl", options)
    assert (report.queries, report.pairs, report.without) == (10, 11, 0)
    assert (report.documents, report.copies) == (len(texts()) + 1, 5)
    mined = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(mined) == 11
    with Encoder.load(tiny_artifact) as encoder:
        for one in mined:
            own = {pair.positive for pair in pairs() if pair.query == one["query"]}
            others = [text for text in dict.fromkeys(lines) if text and text not in {*own, one["query"]}]
            query, positive, *rest = encoder.embed([one["query"], one["positive"], *others]).vectors
            cosines = np.array(rest) @ query
            expected = [others[row] for row in np.argsort(-cosines)[:3]]
            assert one["negatives"] == expected
            assert one["scores"] == pytest.approx([positive @ query, *np.sort(cosines)[::-1][:3]], abs=1e-5)


def test_a_corpus_of_lines_and_the_command(tiny_artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("\n".join(texts()) + "\n")
    lines = [json.dumps({"query": pair.query, "positive": pair.positive, "other": 1}) for pair in pairs()]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    options = ("--pairs", tmp_path / "pairs.jsonl", "--corpus", tmp_path / "corpus.txt", "--max-score", "-1")
    command = ["tune", "mine", tiny_artifact, "-o", tmp_path / "out.jsonl", *options]
    done = CliRunner().invoke(app, list(map(str, command)), obj=Settings("fletcher-convert"))
    assert done.exit_code == 0, done.exception
    # No cosine is below -1: the pairs are written without negatives, and can be trained on.
    mined = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(one["query"], one["positive"]) for one in mined] == sorted_by_query(pairs())
    assert all(one["negatives"] == [] and len(one["scores"]) == 1 for one in mined)
    assert "without" in done.stdout
    assert "no pair has a negative" in done.output


def sorted_by_query(given: list[Example]) -> list[tuple[str, str]]:
    queries = list(dict.fromkeys(one.query for one in given))
    return [(query, one.positive) for query in queries for one in given if one.query == query]


def test_groups_go_to_the_output_so_that_a_split_keeps_them_together(tiny_artifact: Path, tmp_path: Path) -> None:
    lines = [
        "anchor,answer,document_id",
        *(f'"{one.query}","{one.positive}",{row % 2}' for row, one in enumerate(pairs())),
    ]
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    corpus = write_corpus(tmp_path / "c.jsonl", texts())
    mine_negatives(tiny_artifact, read_positive_pairs(tmp_path / "pairs.csv"), corpus, tmp_path / "out.jsonl")
    mined = {
        (one["query"], one["positive"]): one["group"] for one in map(json.loads, open_lines(tmp_path / "out.jsonl"))
    }
    assert mined == {(one.query, one.positive): str(row % 2) for row, one in enumerate(pairs())}


def open_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_bad_files_are_named(tmp_path: Path, tiny_artifact: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    for content, message in (
        ('{"query": "a"}', "has the columns query, and none for a positive"),
        ('{"query": "a", "positive": "b"}\n{"query": "a"}', "line 2: positive is empty"),
        ('{"query": "a", "positive": " "}', "line 1: positive is empty"),
        ("\n", "has no pair"),
        (
            '{"query": "a", "positive": "b", "score": 1}\n{"query": "a", "positive": "c", "score": 0.5}',
            "has pairs of different score, and every pair must belong together",
        ),
    ):
        file.write_text(content)
        with pytest.raises(InputError, match=message):
            read_positive_pairs(file)
    (tmp_path / "corpus.jsonl").write_text('{"text": "a"}\n{"txt": "b"}\n')
    with pytest.raises(InputError, match=r"corpus\.jsonl, line 2"):
        list(CorpusFile(tmp_path / "corpus.jsonl").chunks())
    with pytest.raises(InputError, match=r"corpus\.csv is a \.csv file, whose lines are not texts"):
        list(CorpusFile(tmp_path / "corpus.csv").chunks())
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(InputError, match="has no text to mine"):
        mine_negatives(tiny_artifact, pairs(), tmp_path / "empty.txt", tmp_path / "out.jsonl")
    with pytest.raises(InputError, match="cannot be read"):
        mine_negatives(tiny_artifact, pairs(), tmp_path / "missing.txt", tmp_path / "out.jsonl")
    for output, message in ((tmp_path, "is a folder: name a file"), (file / "out.jsonl", "is a file, not a folder")):
        with pytest.raises(InputError, match=message):
            mine_negatives(tiny_artifact, pairs(), tmp_path / "missing.txt", output)
    assert not (tmp_path / "out.jsonl").exists()


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the checkpoint of a tiny cross-encoder with a sigmoid, as sentence-transformers saves it."""
    import torch
    from sentence_transformers import CrossEncoder

    folder = tmp_path_factory.mktemp("judge")
    torch.manual_seed(5)
    config = transformers.AutoConfig.from_pretrained(save_embedder(folder / "embedder"), num_labels=1)
    config.initializer_range = 0.5  # scores that differ
    transformers.BertForSequenceClassification(config).save_pretrained(folder / "bert")
    transformers.AutoTokenizer.from_pretrained(folder / "embedder").save_pretrained(folder / "bert")
    CrossEncoder(str(folder / "bert"), device="cpu").save_pretrained(str(folder / "judge"))
    return folder / "judge"


@pytest.mark.parametrize("kind", ["checkpoint", "artifact"])
def test_a_cross_encoder_decides_which_candidates_are_false_negatives(
    kind: str, cross_encoder: Path, tiny_artifact: Path, tmp_path: Path
) -> None:
    from sentence_transformers import CrossEncoder

    judge = cross_encoder
    if kind == "artifact":
        judge = tmp_path / "judge"
        export(str(cross_encoder), judge)
    corpus = write_corpus(tmp_path / "c.jsonl", texts())
    lines = [json.dumps({"query": pair.query, "positive": pair.positive}) for pair in pairs()]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    command = ["tune", "mine", tiny_artifact, "-o", tmp_path / "out.jsonl", "--pairs", tmp_path / "pairs.jsonl"]
    options = ["--corpus", corpus, "--reranker", judge, "--relative-margin", "0.05", "--range-max", len(texts()) + 2]
    done = CliRunner().invoke(app, list(map(str, [*command, *options])), obj=Settings("fletcher-convert"))
    assert done.exit_code == 0, done.exception
    model = CrossEncoder(str(cross_encoder), device="cpu")
    removed = 0
    for one in map(json.loads, open_lines(tmp_path / "out.jsonl")):
        own = [pair.positive for pair in pairs() if pair.query == one["query"]]
        others = [text for text in dict.fromkeys(texts()) if text not in {*own, one["query"]}]
        scores = model.predict([(one["query"], text) for text in [*own, *others]])
        positive, judged = scores[: len(own)], scores[len(own) :]
        allowed = judged <= 0.95 * positive.min()
        removed += int((~allowed).sum())
        order = [row for row in np.argsort(-judged, kind="stable") if allowed[row]][:3]
        assert one["negatives"] == [others[row] for row in order]
        assert one["scores"][1:] == pytest.approx(judged[order], abs=1e-5)
    assert removed > 0


def test_a_model_without_scores_is_no_reranker(tiny_checkpoint: Path, tiny_artifact: Path, tmp_path: Path) -> None:
    for judge in (tiny_checkpoint, tiny_artifact):
        options = MiningOptions(reranker=str(judge))
        with pytest.raises(InputError, match=f"--reranker {judge} gives vectors: give a cross-encoder"):
            mine_negatives(tiny_artifact, pairs(), tmp_path / "missing.txt", tmp_path / "out.jsonl", options)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the package `datasets`
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"range_min": 2, "num_negatives": 2},
        {"absolute_margin": 0.05, "range_max": 12},
        {"relative_margin": 0.02, "range_min": 1, "range_max": 15, "num_negatives": 1},
    ],
)
def test_negatives_are_those_of_sentence_transformers(
    fields: dict[str, float], tiny_checkpoint: Path, tiny_artifact: Path, tmp_path: Path
) -> None:
    datasets = pytest.importorskip("datasets")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import mine_hard_negatives

    # With two positives for one query, sentence-transformers looks at one more candidate of the others.
    given = pairs() if "range_max" not in fields else pairs()[:-1]
    rows = {"query": [pair.query for pair in given], "positive": [pair.positive for pair in given]}
    model = SentenceTransformer(str(tiny_checkpoint), device="cpu")
    triplets = mine_hard_negatives(
        datasets.Dataset.from_dict(rows),
        model,
        corpus=texts(),
        verbose=False,
        **fields,  # type: ignore[arg-type]
    )
    expected: dict[tuple[str, str], list[str]] = {}
    for one in triplets:
        expected.setdefault((one["query"], one["positive"]), []).append(one["negative"])
    corpus = write_corpus(tmp_path / "c.jsonl", texts())
    options = MiningOptions(**({"relative_margin": None} | fields))  # type: ignore[arg-type]
    mine_negatives(tiny_artifact, given, corpus, tmp_path / "out.jsonl", options)
    mined = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert {(one["query"], one["positive"]): one["negatives"] for one in mined if one["negatives"]} == expected
