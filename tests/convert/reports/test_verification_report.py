"""Verification report as a table, as JSON and as a page: all numbers are present, and the page fetches nothing."""

from __future__ import annotations

import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import numpy as np
import pytest
from rich.console import Console

from fletcher.convert.reports.verification_page import by_length, to_html
from fletcher.convert.reports.verification_table import render, write_report
from fletcher.convert.verify.report import (
    RefusedText,
    SettingResult,
    TextResult,
    TokenizerResult,
    VariantResult,
    VerificationReport,
    excerpt,
)
from fletcher.model_zoo.card import Accuracy
from fletcher.runtime.errors import InputError, VerificationError
from tests.look import check_look, check_rendered

pytestmark = pytest.mark.heavy  # by the seconds that it computes


def text_result(text: str, tokens: int, cosine: float, max_abs: float) -> TextResult:
    return TextResult(text=text, input_type="raw", tokens=tokens, cosine=cosine, max_abs=max_abs)


@pytest.fixture
def report() -> VerificationReport:
    texts = tuple(text_result(f"text {tokens}", tokens, 1 - tokens * 1e-9, tokens * 1e-8) for tokens in range(2, 60))
    worst = text_result("<script>alert('worst')</script>", 77, 0.8765432, 3.21e-2)
    good = VariantResult(
        name="cpu-fp32",
        precision="fp32",
        provider="MLAS",
        tolerance=Accuracy(min_cosine=0.999999, max_abs=1e-5),
        batch_tolerance=1e-6,
        cosine_mean=0.9999997,
        cosine_p1=0.9999995,
        cosine_min=0.9999991,
        max_abs=4.4e-6,
        batch_max_abs=1.7e-7,
        neighbors=0.9876,
        spearman=0.999321,
        worst=texts[-1],
        reasons=(),
        texts=texts,
        pairs=tuple((x, x + 0.001) for x in np.linspace(-0.2, 1, 50).tolist()),
    )
    bad = msgspec.structs.replace(
        good,
        name="cpu-bad",
        cosine_min=0.8765432,
        worst=worst,
        texts=(*texts, worst),
        reasons=("cosine 0.8765432, at least 0.999999 wanted",),
    )
    return VerificationReport(
        model="tiny & small",
        artifact="out/tiny",
        digest="ab" * 32,
        reference="hf:org/tiny@123",
        method="sentence-transformers 6.9 (SentenceTransformer)",
        notes=("max_seq_length is the artifact's, 12 tokens",),
        time="2026-01-02T03:04:05+00:00",
        tools={"torch": "2.99", "onnxruntime": "1.88"},
        complete=True,
        tokenizer=TokenizerResult(compared=59, equal=59, truncated=4, reason=""),
        variants=(good, bad),
        settings=(
            SettingResult(
                setting="tokenizer_config.json: do_lower_case",
                exercised_by="capitals",
                texts=30,
                failed=12,
                verdict="failed",
            ),
            SettingResult(setting="odd.json", exercised_by="", texts=0, failed=0, verdict="not checked", note="unread"),
        ),
        refused=(RefusedText(text="", input_type="raw", reason="it has no token"),),
        likely="Token ids differ on 12 of 30 texts with capitals. Likely cause: do_lower_case",
        verdict="failed",
    )


def shown(report: VerificationReport, width: int) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width).print(render(report))
    return stream.getvalue()


def test_the_table_has_every_figure_on_a_narrow_terminal(report: VerificationReport) -> None:
    output = shown(report, 80)
    for figure in ("0.999999100", "0.999999500", "0.999999700", "4.4e-06", "1.7e-07", "98.76%", "0.999321"):
        assert figure in output
    for words in (
        "59 of 59",
        "4 of them truncated",
        "sentence-transformers 6.9",
        "12 tokens",
        "12 of 30",
        "not checked",
        "odd.json",
        "refuses it: '' (raw): it has no token",
        "Likely cause: do_lower_case",
        "alert('worst')",
        "0.8765432, at least",
        "verdict: failed",
    ):
        assert words in " ".join(output.split())
    assert "…" not in output


def test_json_has_the_whole_report(report: VerificationReport, tmp_path: Path) -> None:
    write_report(report, tmp_path / "report.json")
    content = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert content["verdict"] == "failed"
    assert content["variants"][0]["cosine_min"] == 0.9999991
    assert content["variants"][1]["worst"]["tokens"] == 77
    assert len(content["variants"][1]["texts"]) == 59


class Page(HTMLParser):
    """`Page`: parser that collects the texts that a page shows and the addresses that it would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [
            value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data", "action")
        ]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_has_the_numbers_and_the_plots(report: VerificationReport, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write_report(report, tmp_path / "report.html")
    page = Page()
    page.feed((tmp_path / "report.html").read_text(encoding="utf-8"))
    words = " ".join(page.words)
    for figure in (
        "0.9999991",
        "0.9999995",
        "0.9999997",
        "4.4e-06",
        "1.7e-07",
        "98.76%",
        "0.999321",
        "0.8765432",
        "3.2e-02",
    ):
        assert figure in words
    for name in (
        "not checked",
        "odd.json",
        "it has no token",
        "12 tokens",
        "do_lower_case",
        "tiny & small",
        "out/tiny",
        "hf:org/tiny@123",
        "torch 2.99",
        "ab" * 32,
        "1 − cosine",
        "failed",
    ):
        assert name in words
    assert page.tags.count("svg") == 4
    assert "script" not in page.tags
    assert "<script>alert('worst')</script>" in words


def test_the_page_begins_with_the_result_and_has_the_one_look(report: VerificationReport, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    html = to_html(report)
    failed = "its vectors are not those of the reference with cpu-bad (cosine 0.8765432, at least 0.999999 wanted)"
    assert check_look(html) == f"The artifact of tiny & small must not be served: {failed}."
    check_rendered(html, tmp_path)
    passed = msgspec.structs.replace(report, variants=report.variants[:1], verdict="passed")
    texts = report.tokenizer.compared
    equal = msgspec.structs.replace(report.tokenizer, equal=texts)
    sentence = f"the smallest cosine of {texts} texts with 1 variant is 0.9999991."
    whole = msgspec.structs.replace(passed, tokenizer=equal)
    assert check_look(to_html(whole)) == f"The artifact of tiny & small gives the vectors of the reference: {sentence}"
    ids = msgspec.structs.replace(report.tokenizer, equal=texts - 1)
    assert "token ids differ" in check_look(to_html(msgspec.structs.replace(report, tokenizer=ids)))


def test_the_page_has_no_external_references(report: VerificationReport) -> None:
    pytest.importorskip("matplotlib")
    html = to_html(report)
    page = Page()
    page.feed(html)
    assert all(address.startswith("#") for address in page.addresses)
    assert not re.search(r"https?:|//\w|@import|url\((?!#)", html)


def test_ids_of_the_plots_are_unique_and_the_page_is_deterministic(report: VerificationReport) -> None:
    pytest.importorskip("matplotlib")
    html = to_html(report)
    clips = re.findall(r'<clipPath id="([^"]+)"', html)
    assert len(clips) == len(set(clips)) == 4
    assert html == to_html(report)


def test_infinite_values_are_accepted_by_the_page_and_the_json(report: VerificationReport, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    broken = text_result("broken", 9, -1.0, math.inf)
    variant = msgspec.structs.replace(report.variants[1], worst=broken, texts=(broken,), pairs=(), max_abs=math.inf)
    changed = msgspec.structs.replace(report, variants=(variant,))
    write_report(changed, tmp_path / "report.html")
    write_report(changed, tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["variants"][0]["max_abs"] is None
    assert "inf" in shown(changed, 80)


def test_lengths_are_grouped_by_powers_of_two() -> None:
    texts = [text_result("x", tokens, 1 - tokens / 100, tokens / 10) for tokens in (2, 4, 5, 8, 9, 16, 17, 512)]
    rows = [(row.shortest, row.longest, row.texts, row.max_abs) for row in by_length(texts)]
    assert rows == [(2, 4, 2, 0.4), (5, 8, 2, 0.8), (9, 16, 2, 1.6), (17, 17, 1, 1.7), (512, 512, 1, 51.2)]
    assert by_length(texts)[0].cosine_min == 0.96


def test_other_suffixes_are_refused_and_missing_folders_are_made(report: VerificationReport, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"use the suffix \.html or \.json"):
        write_report(report, tmp_path / "report.pdf")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"the report .*file/report.json cannot be written"):
        write_report(report, tmp_path / "file" / "report.json")
    write_report(report, tmp_path / "new" / "report.json")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.json"]


def test_the_error_names_the_variant_the_figure_and_the_text(report: VerificationReport) -> None:
    with pytest.raises(VerificationError) as failure:
        report.raise_if_failed()
    message = str(failure.value)
    for words in ("cpu-bad: cosine 0.8765432", "alert('worst')", "77 tokens", "out/tiny", "hf:org/tiny@123"):
        assert words in message
    assert "cpu-fp32:" not in message


def test_excerpts_are_one_printable_line() -> None:
    assert excerpt("a\n\x00b") == "a\\u000a\\u0000b"
    assert excerpt("x" * 100) == "x" * 60 + "…"
