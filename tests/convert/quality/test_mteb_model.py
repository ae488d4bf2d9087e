"""Artifacts and served models as models of MTEB: prompts by task, and results equal to those of sentence-transformers.

The tests of results need mteb, which has packages of its own: run them by hand in an environment with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fletcher.convert.export.export import export
from fletcher.convert.quality.mteb_model import MtebEncoder, MtebServer, input_type_of_task
from fletcher.convert.texts import SENTENCES
from fletcher.runtime.errors import InputError, ServiceError
from fletcher.serve.models.spec import ModelSpec
from fletcher.serve.server import Server
from fletcher.serve.server_options import ServerOptions

from ..tiny import save_bert, save_modules

PROMPTS = {"query": "question: ", "document": "text: ", "clustering": "group: "}


@pytest.mark.parametrize(
    ("task", "kind", "prompt_type", "expected"),
    [
        ("NFCorpus", "Retrieval", "query", "query"),
        ("NFCorpus", "Retrieval", "document", "document"),
        ("NFCorpus", "Retrieval", SimpleNamespace(value="query"), "query"),
        ("Special", "Retrieval", "query", "Special-query"),
        ("Arxiv", "Clustering", None, "clustering"),
        ("Banking77", "Classification", None, "classification"),
        ("Emotions", "MultilabelClassification", None, "classification"),
        ("Pairs", "PairClassification", None, "raw"),
        ("STS12", "STS", None, "STS"),
        ("Summary", "Summarization", None, "raw"),
    ],
)
def test_a_task_has_its_input_type(task: str, kind: str, prompt_type: Any, expected: str) -> None:
    metadata = SimpleNamespace(name=task, type=kind)
    available = ("query", "document", "clustering", "classification", "STS", "Special-query", "raw")
    assert input_type_of_task(metadata, prompt_type, available) == expected


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a checkpoint that has prompts, and its artifact."""
    folder = tmp_path_factory.mktemp("mteb")
    save_bert(folder / "checkpoint")
    save_modules(folder / "checkpoint")
    (folder / "checkpoint" / "config_sentence_transformers.json").write_text(json.dumps({"prompts": PROMPTS}))
    export(str(folder / "checkpoint"), folder / "artifact")
    return folder


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    spec = ModelSpec(path=str(folder / "artifact"), name="tiny", provider="mlas", cache="0")
    with Server([spec], ServerOptions(http="127.0.0.1:0", flight="off", fronts=0)) as server:
        yield str(server.addresses.http)


def tasks() -> list[Any]:
    """Return small tasks of three types on the built-in sentences: neighbors in the list are about the same thing."""
    from datasets import Dataset, DatasetDict
    from mteb.abstasks import AbsTaskRetrieval, AbsTaskSTS
    from mteb.abstasks.clustering import AbsTaskClustering
    from mteb.abstasks.task_metadata import TaskMetadata

    common: dict[str, Any] = {
        "description": "built-in sentences",
        "reference": None,
        "dataset": {"path": "none", "revision": "1"},
        "category": "t2t",
        "eval_splits": ["test"],
        "eval_langs": ["eng-Latn"],
        "date": ("2026-01-01", "2026-01-01"),
        "dialect": [],
        "domains": [],
        "task_subtypes": [],
        "license": "apache-2.0",
        "annotations_creators": "derived",
        "modalities": ["text"],
        "sample_creation": "created",
        "bibtex_citation": "",
    }
    texts = [text for text in SENTENCES if text.isascii()]

    class Sts(AbsTaskSTS):  # type: ignore[misc]
        metadata = TaskMetadata(name="SmallSts", type="STS", main_score="cosine_spearman", **common)
        min_score, max_score = 0, 1

        def load_data(self, **_: Any) -> None:
            rows = {
                "sentence1": texts[:-1],
                "sentence2": texts[1:],
                "score": [row % 3 / 2 for row in range(len(texts) - 1)],
            }
            self.dataset = DatasetDict({"test": Dataset.from_dict(rows)})
            self.data_loaded = True

    class Clusters(AbsTaskClustering):  # type: ignore[misc]
        metadata = TaskMetadata(name="SmallClusters", type="Clustering", main_score="v_measure", **common)
        max_fraction_of_documents_to_embed = None

        def load_data(self, **_: Any) -> None:
            rows = {"sentences": texts, "labels": [row * 4 // len(texts) for row in range(len(texts))]}
            self.dataset = DatasetDict({"test": Dataset.from_dict(rows)})
            self.data_loaded = True

    class Search(AbsTaskRetrieval):  # type: ignore[misc]
        metadata = TaskMetadata(name="SmallSearch", type="Retrieval", main_score="ndcg_at_10", **common)

        def load_data(self, **_: Any) -> None:
            corpus = Dataset.from_list([{"id": f"d{row}", "title": "", "text": text} for row, text in enumerate(texts)])
            queries = Dataset.from_list([{"id": f"q{row}", "text": text[:20]} for row, text in enumerate(texts[:10])])
            judgments = {f"q{row}": {f"d{row}": 1, f"d{row + 1}": 1} for row in range(10)}
            split = {"corpus": corpus, "queries": queries, "relevant_docs": judgments, "top_ranked": None}
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    return [Sts(), Clusters(), Search()]


def scores_of(model: Any, output: Path | None = None) -> dict[str, float]:
    """Return the main score of each task, and write mteb's JSON of each."""
    import mteb

    result = mteb.evaluate(model, tasks(), cache=None, co2_tracker=False, show_progress_bar=False)
    for one in result.task_results:
        if output is not None:
            one.to_disk(output / f"{one.task_name}.json")
    return {one.task_name: one.scores["test"][0]["main_score"] for one in result.task_results}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of mteb's packages
def test_results_are_those_of_sentence_transformers(folder: Path, url: str, tmp_path: Path) -> None:
    pytest.importorskip("mteb")
    from mteb.models import SentenceTransformerEncoderWrapper

    # mteb knows a clustering prompt by the type of its tasks, not by the name that the checkpoint gives it.
    prompts = {"query": PROMPTS["query"], "document": PROMPTS["document"], "Clustering": PROMPTS["clustering"]}
    reference = SentenceTransformerEncoderWrapper(str(folder / "checkpoint"), device="cpu", model_prompts=prompts)
    expected = scores_of(reference)
    assert set(expected) == {"SmallSts", "SmallClusters", "SmallSearch"}
    with MtebEncoder(folder / "artifact", provider="mlas") as model:
        assert scores_of(model, tmp_path) == pytest.approx(expected, abs=1e-4)
        assert model.mteb_model_meta.name == "fletcher/checkpoint"
    written = json.loads((tmp_path / "SmallSearch.json").read_text())
    assert written["scores"]["test"][0]["main_score"] == pytest.approx(expected["SmallSearch"], abs=1e-4)
    assert scores_of(MtebServer(url, "tiny")) == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mteb_accepts_both_as_encoders(folder: Path, url: str) -> None:
    pytest.importorskip("mteb")
    from mteb.models import EncoderProtocol

    with MtebEncoder(folder / "artifact", provider="mlas") as model:
        assert isinstance(model, EncoderProtocol)
    assert isinstance(MtebServer(url, "tiny"), EncoderProtocol)


def test_an_unknown_model_and_a_server_that_is_not_there_are_named(url: str) -> None:
    with pytest.raises(InputError, match="has no model 'other': it has tiny"):
        MtebServer(url, "other")
    with pytest.raises(ServiceError, match="does not answer"):
        MtebServer("http://127.0.0.1:9", "tiny")
