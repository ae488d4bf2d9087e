"""Pages of benchmarks and bulk jobs: they begin with the result, show the numbers, and have the one look of all reports."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from fletcher.runtime.commandline.console import run
from fletcher.serve.bench.page import bench_to_html
from fletcher.serve.bench.results import BenchResult, Figures
from fletcher.serve.commands.cli import SHARED, app
from fletcher.serve.files.embed_file import EmbedSummary
from fletcher.serve.files.page import embed_to_html
from fletcher.serve.longbow.job.page import ingest_to_html
from fletcher.serve.longbow.job.summary import IngestSummary
from tests.look import check_look, check_rendered

FLETCHER = Figures(
    name="fletcher",
    versions="longbow-fletcher 1.0",
    throughput_texts_per_s=1234.5,
    tokens_per_s=61725.0,
    ratio=1.0,
    latency_p50_ms=3.21,
    latency_p95_ms=4.0,
    latency_p99_ms=5.5,
    peak_rss_mb=210.0,
    min_cosine=0.999999,
    padding_waste=0.02,
    compute_share=0.97,
    tokenizing_share=0.05,
    output_share=0.01,
)
PEER = Figures(
    name="sentence-transformers", throughput_texts_per_s=411.4, tokens_per_s=20575.0, ratio=3.0, latency_p50_ms=9.63
)
ABSENT = Figures(name="<fastembed>", problem="it is not installed & not found")

RESULT = BenchResult(
    model="tiny & small",
    texts=2000,
    tokens=100_000,
    corpus="docstrings",
    rounds=3,
    processors=2,
    reference="sentence-transformers",
    throughput_texts_per_s=1234.5,
    tokens_per_s=61725.0,
    latency_p50_ms=3.21,
    latency_p99_ms=5.5,
    padding_waste=0.02,
    peak_rss_mb=210.0,
    participants=(FLETCHER, PEER, ABSENT),
)

INGESTED = IngestSummary(
    dataset="documents",
    model="tiny",
    variant="cpu-fp32",
    read=1000,
    sent=700,
    replaced=20,
    known=200,
    duplicates=60,
    failed=40,
    removed=5,
    tokens=35_000,
    truncated_texts=3,
    dropped_tokens=99,
    cosine_loss=0.0,
    retries=1,
    index_len=900,
    missing=0,
    doubled=0,
    surplus=0,
    tombstones=25,
    memory_share=None,
    seconds=12.0,
    rows_per_second=58.3,
    tokens_per_second=2916.7,
)


def test_a_benchmark(tmp_path: Path) -> None:
    page = bench_to_html(RESULT)
    assert check_look(page) == (
        "Fletcher embeds 1,234 texts per second with tiny & small on 2 processors, and one text takes 3.2 ms; that is 3.00 "
        "times the throughput of sentence-transformers, the fastest other participant."
    )
    for shown in (
        "1,234",
        "411",
        "9.63",
        "&lt;fastembed&gt;",
        "it is not installed &amp; not found",
        "longbow-fletcher 1.0",
    ):
        assert shown in page
    check_rendered(page, tmp_path)
    alone = check_look(bench_to_html(msgspec.structs.replace(RESULT, participants=(FLETCHER,))))
    assert alone.endswith("one text takes 3.2 ms.")


def test_a_job_that_writes_to_longbow(tmp_path: Path) -> None:
    page = ingest_to_html(INGESTED)
    assert check_look(page) == (
        "The dataset documents has the 960 usable documents of the input: 700 were sent, 200 were there, and 60 are "
        "duplicates; 40 could not be used."
    )
    check_rendered(page, tmp_path)
    lost = ingest_to_html(replace(INGESTED, missing=7))
    assert check_look(lost) == "The dataset documents lacks 7 rows that Longbow acknowledged: run the job again."
    assert 'class="verdict failed"' in lost


@pytest.mark.parametrize("suffix", [".html", ".json"])
def test_embed_writes_its_report(tiny_artifact: Path, tmp_path: Path, suffix: str) -> None:
    (tmp_path / "texts.txt").write_text("one\ntwo\n" + "many words " * 200 + "\n")
    arguments = ["embed", str(tiny_artifact), "-i", str(tmp_path / "texts.txt"), "-o", str(tmp_path / "vectors.npy")]
    report = tmp_path / "new" / f"report{suffix}"
    with pytest.raises(SystemExit) as caught:
        run(app, [*arguments, "--provider", "mlas", "--report", str(report)], shared=SHARED)
    assert caught.value.code in (0, None)
    if suffix == ".json":
        assert json.loads(report.read_text())["texts"] == 3
        return
    page = report.read_text(encoding="utf-8")
    assert "3 texts have vectors of" in check_look(page)
    assert "1 texts were too long for the model" in check_look(page)
    check_rendered(page, tmp_path)


def test_a_report_of_another_kind_is_refused_before_the_work(tiny_artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("one\n")
    arguments = ["embed", str(tiny_artifact), "-i", str(tmp_path / "texts.txt"), "-o", str(tmp_path / "vectors.npy")]
    with pytest.raises(SystemExit) as caught:
        run(app, [*arguments, "--report", str(tmp_path / "report.pdf")], shared=SHARED)
    assert caught.value.code not in (0, None)
    assert not (tmp_path / "vectors.npy").exists()


def test_a_job_without_truncation_says_so() -> None:
    summary = EmbedSummary(
        output=Path("out/vectors.npy"),
        model="tiny",
        variant="cpu-fp32",
        provider="MLAS",
        texts=10,
        dimension=32,
        tokens=100,
        truncated_texts=0,
        dropped_tokens=0,
        seconds=0.5,
        space="fs1-abc",
        texts_per_second=20.0,
        tokens_per_second=200.0,
    )
    assert (
        check_look(embed_to_html(summary)) == "10 texts have vectors of 32 dimensions, made in 0.5 s; no text was cut."
    )
