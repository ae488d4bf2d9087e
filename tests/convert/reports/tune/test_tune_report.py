"""Report of a training: table, page and JSON of one result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fletcher.convert.reports.tune.page import write_tune_report
from fletcher.convert.reports.tune.table import gain_rows
from fletcher.convert.tune.outcome.bootstrap import Gain, Interval
from fletcher.convert.tune.outcome.results import DataFigures, Exactness, TunedArtifact, TuneReport
from fletcher.convert.tune.training.task import Point, Trained
from fletcher.runtime.errors import InputError

GAIN = Gain(
    name="nDCG@10",
    graph="float32",
    items=120,
    before=Interval(0.5, 0.45, 0.55),
    after=Interval(0.6, 0.55, 0.65),
    gain=Interval(0.1, 0.04, 0.16),
    reference=0.7,
)
REPORT = TuneReport(
    sentence="nDCG@10 <went> up.",
    method="contrastive",
    model="tiny",
    source="./tiny",
    checkpoint="out/checkpoint",
    artifacts=(
        TunedArtifact(
            path="out/float32",
            graph="float32",
            digest="ab" * 32,
            status="verified",
            num_bytes=1234567,
            exactness=Exactness(texts=32, median=1e-7, largest=3e-7),
        ),
    ),
    gains=(GAIN,),
    data=DataFigures(
        source="pairs.jsonl",
        kind="pairs",
        copies=3,
        train=800,
        validation=50,
        test=50,
        moved=7,
        cut=0.125,
        max_tokens=64,
    ),
    training=Trained(
        metric="nDCG@10",
        steps=20,
        planned=40,
        best_step=10,
        best_metric=0.61,
        resumed_from=10,
        seconds=90.0,
        learning_rate=2e-4,
        log=(Point(step=1, loss=2.0), Point(step=2, loss=1.5, metric=0.6)),
    ),
    options={"held_out": 0.1, "lora": None},
    time="2026-11-30T00:00:00+00:00",
    tools={"torch": "2.13.0"},
)


def test_rows_have_intervals_and_the_verdict() -> None:
    assert gain_rows(REPORT) == [
        (
            "nDCG@10",
            "float32",
            "120",
            "0.5000 (0.4500 to 0.5500)",
            "0.6000 (0.5500 to 0.6500), teacher 0.7000",
            "+0.1000 (+0.0400 to +0.1600)",
            "better",
        )
    ]


def test_the_page_says_everything_and_escapes_it(tmp_path: Path) -> None:
    write_tune_report(REPORT, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    for text in (
        "nDCG@10 &lt;went&gt; up.",
        "stopped early of 40",
        "7 examples moved",
        "12.5%",
        '<td class="number">1,234,567</td>',
        "1.0e-07",
        "fletcher-serve run out/float32",
        "nDCG@10: quality of a search&#x27;s first ten results",
        "The largest learning rate was 0.0002.",
        "<td>--held-out</td>",
        "<td>default</td>",
    ):
        assert text in page
    assert page.count("<svg") == 2
    assert "same codes" not in page  # of quantized layers


def test_json_has_the_same_figures(tmp_path: Path) -> None:
    write_tune_report(REPORT, tmp_path / "report.json")
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["gains"][0]["gain"] == {"value": 0.1, "low": 0.04, "high": 0.16}
    assert found["training"]["log"][1] == {"step": 2, "loss": 1.5, "metric": 0.6}
    with pytest.raises(InputError, match="cannot be written as report"):
        write_tune_report(REPORT, tmp_path / "report.pdf")
