"""The benchmark: its report, the processes of its peers, and their failures. The tests do not assert a speed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fletcher.convert.export.export import export
from fletcher.runtime import Encoder, corpora
from fletcher.runtime.corpora import corpus
from fletcher.runtime.errors import InputError, ProviderError
from fletcher.runtime.options.load import LoadOptions
from fletcher.serve.bench.participants import FLETCHER, ChildError, Participant, fletcher_command, peer_command
from fletcher.serve.bench.results import BenchResult, Figures, plot, stages, table
from fletcher.serve.bench.run import bench

from ...convert.tiny import save_embedder

TEXTS = ["a text", "another", "the third one is the longest of them", "b", "c d e"] * 8


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "checkpoint"
    return save_embedder(folder)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    path = tmp_path_factory.mktemp("bench") / "artifact"
    export(str(checkpoint), path)
    return path


@pytest.fixture(scope="module")
def result(artifact: Path, checkpoint: Path) -> BenchResult:
    """Return the result of Fletcher, of sentence-transformers, and of fastembed, which fails without an ONNX graph."""
    return bench(
        artifact,
        TEXTS,
        corpus="test",
        options=LoadOptions(provider="mlas", workers=2),
        peers=["sentence-transformers", "fastembed"],
        checkpoint=checkpoint,
        rounds=2,
        say=lambda text: None,
    )


def test_every_participant_has_figures_or_a_problem(result: BenchResult) -> None:
    assert [figures.name for figures in result.participants] == [FLETCHER, "sentence-transformers", "fastembed"]
    fletcher, torch, failed = result.participants
    assert failed.problem is not None and "has no model.onnx" in failed.problem
    for figures in (fletcher, torch):
        assert figures.problem is None
        assert figures.throughput_texts_per_s and figures.peak_rss_mb and figures.latency_p50_ms
        assert figures.latency_p50_ms <= (figures.latency_p95_ms or 0) <= (figures.latency_p99_ms or 0)
    assert fletcher.ratio == fletcher.latency_ratio == 1
    assert torch.ratio is not None and torch.ratio_lowest is not None and torch.ratio_lowest <= torch.ratio
    assert torch.batch_size in (8, 16, 32, 64, 128) and fletcher.batch_size is None
    assert "torch" in torch.versions and "MLAS, 2 workers" in fletcher.versions


def test_vectors_are_compared_with_the_reference(result: BenchResult) -> None:
    fletcher, torch, _ = result.participants
    assert result.reference == torch.versions
    assert fletcher.min_cosine == pytest.approx(1, abs=1e-6)
    assert torch.min_cosine == pytest.approx(1, abs=1e-6)


def test_stages_are_shares(result: BenchResult, artifact: Path) -> None:
    fletcher = result.participants[0]
    for share in (fletcher.padding_waste, fletcher.compute_share, fletcher.busy_share):
        assert share is not None and 0 <= share <= 1
    assert fletcher.tokenizing_share is not None and fletcher.tokenizing_share > 0
    assert fletcher.output_share is not None and 0 < fletcher.output_share < 1
    assert f"making the output {fletcher.output_share:.1%}" in stages(fletcher)
    assert (fletcher.compute_share or 0) <= (fletcher.busy_share or 0) + 1e-6
    with Encoder.load(artifact, provider="mlas") as encoder:
        assert result.tokens == encoder.tokenize(TEXTS).num_tokens


def test_json_has_the_documented_names(result: BenchResult) -> None:
    import msgspec

    decoded = json.loads(msgspec.json.encode(result))
    for name in (
        "throughput_texts_per_s",
        "tokens_per_s",
        "latency_p50_ms",
        "latency_p99_ms",
        "padding_waste",
        "peak_rss_mb",
    ):
        assert decoded[name] == decoded["participants"][0][name]
    shown = table(result)
    assert [row[0] for row in shown.rows] == [FLETCHER, "sentence-transformers", "fastembed"]
    row = dict(zip(shown.columns, shown.rows[0], strict=True))
    assert row["p95 ms"] == f"{decoded['participants'][0]['latency_p95_ms']:.2f}"
    assert row["tokens/s"] == f"{decoded['tokens_per_s']:,.0f}"


def test_a_plot_is_a_picture(result: BenchResult, tmp_path: Path) -> None:
    plot(result, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    plot(result, tmp_path / "a.svg")
    assert "sentence-transformers" in (tmp_path / "a.svg").read_text() or b"<svg" in (tmp_path / "a.svg").read_bytes()
    with pytest.raises(InputError, match=r"name it \.png or \.svg"):
        plot(result, tmp_path / "a.txt")


def test_fletcher_alone_is_compared_with_its_canary(artifact: Path) -> None:
    alone = bench(artifact, TEXTS, corpus="test", options=LoadOptions(provider="mlas"), rounds=1, say=lambda text: None)
    assert alone.reference.startswith("the canary's")
    assert alone.participants[0].min_cosine == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("peer", "folder", "message"),
    [("unknown", Path(), "there is no peer 'unknown'"), ("fastembed", None, "name its folder with --checkpoint")],
)
def test_invalid_peers_are_rejected(peer: str, folder: Path | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        peer_command(peer, folder)


def test_an_empty_corpus_is_rejected(artifact: Path) -> None:
    with pytest.raises(InputError, match="no text to measure"):
        bench(artifact, [], corpus="none", options=LoadOptions(), say=lambda text: None)


def test_a_failure_of_fletcher_is_an_error(artifact: Path) -> None:
    options = LoadOptions(memory_limit="1MiB")
    with pytest.raises(ProviderError, match="fletcher: InputError: a memory limit of 1 MiB is too small"):
        bench(artifact, TEXTS, corpus="test", options=options, say=lambda text: None)


CHILD = """
import json, sys, time
print(json.dumps({"versions": "fake"}), flush=True)
for line in sys.stdin:
    if json.loads(line)["do"] == "die":
        sys.exit(7)
    if json.loads(line)["do"] == "hang":
        time.sleep(60)
    print(json.dumps({"done": True}), flush=True)
"""


@pytest.fixture
def child() -> Iterator[Participant]:
    with Participant("fake", [sys.executable, "-c", CHILD]) as started:
        yield started


def test_the_error_of_a_child_that_ends_has_its_exit_code(child: Participant) -> None:
    assert child.ask(do="work") == {"done": True}
    with pytest.raises(ChildError, match="ended with 7 before it answered"):
        child.ask(do="die")


def test_a_child_that_hangs_is_ended(child: Participant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fletcher.serve.bench.participants.ANSWER_SECONDS", 0.2)
    with pytest.raises(ChildError, match="gave no answer in 0 s, and was ended"):
        child.ask(do="hang")
    assert child._process.wait(10) != 0


def test_a_missing_program_is_an_error() -> None:
    with pytest.raises(ChildError, match="cannot be started"):
        Participant("none", ["/no/such/python"])


def test_vectors_pass_the_pipe_unchanged(artifact: Path) -> None:
    command = fletcher_command(artifact, LoadOptions(provider="mlas"))
    with Participant(FLETCHER, command) as participant, Encoder.load(artifact, provider="mlas") as encoder:
        np.testing.assert_allclose(participant.vectors(TEXTS), encoder.embed(TEXTS).vectors, rtol=0, atol=1e-6)


@pytest.mark.heavy  # the test parses the standard library
def test_corpora_are_different_texts_of_the_stated_lengths(all_docstrings: None) -> None:
    for name, low, high in (("docstrings", 20, 80), ("sentences", 6, 14)):
        texts = corpus(name, 3000)  # type: ignore[arg-type]
        assert len(set(texts)) == 3000
        words: Any = np.array([len(text.split()) for text in texts])
        assert low / 2 < words.mean() < high


def test_corpora_have_a_fixed_order() -> None:
    texts = corpus("sentences", 3000)
    corpora._docstrings.cache_clear()
    assert texts == corpus("sentences", 3000)
    assert texts != corpus("sentences", 3000, seed=1)


def test_figures_without_a_round_have_no_throughput() -> None:
    assert Figures(name="x", problem="gone").throughput_texts_per_s is None
