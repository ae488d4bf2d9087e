"""Quality report as a table, as JSON and as a page: the page fetches nothing, and texts cannot become markup."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from fletcher.convert.quality.inputs import Corpus, make_texts
from fletcher.convert.quality.quality import Measured, compare_quality, measure_quality
from fletcher.convert.quality.results import Compressed, Map, QualityReport, QualityResult, Retrieval
from fletcher.convert.reports.quality.figures import explain_figure, figure_rows
from fletcher.convert.reports.quality.map import UNLABELED, map_section
from fletcher.convert.reports.quality.table import render_quality, write_quality
from fletcher.runtime.errors import InputError
from tests.look import check_look, check_rendered

EVIL = "</script><script>alert(1)</script>"


@pytest.fixture(scope="module")
def measured(tiny_artifact: Path) -> Measured:
    texts = (EVIL, *(f"text {row} of {row * row}" for row in range(70)))
    corpus = Corpus(tuple(map(str, range(71))), texts, (EVIL, *("even" if row % 2 else "odd" for row in range(70))))
    found = measure_quality(tiny_artifact, make_texts(corpus, name="<b>texts"))
    points = tuple((float(row), 0.5) for row in range(71))
    placed = Map(rows=tuple(range(71)), pca=points, umap=points, pca_variance=0.4)
    return Measured(found.report, found.texts, found.embedded, found.neighbors, placed)


@pytest.fixture(scope="module")
def judged(measured: Measured) -> QualityReport:
    """Return a report with nDCG and every kind of shorter vectors."""
    retrieval = Retrieval(
        queries=5, documents=70, judgments=5, missing=0, ndcg=0.5, recall_10=0.5, recall_100=0.5, mrr=0.5, alignment=1
    )
    methods = (("full", False), ("cut", True), ("pca-whitened", False))
    compressed = tuple(
        Compressed(method=method, dimension=1024, trained=trained, type=kind, bytes=64, overlap=0.5, ndcg=0.5)
        for method, trained in methods
        for kind in ("float32", "float16", "int8", "binary")
    )
    return msgspec.structs.replace(measured.report, retrieval=retrieval, compressed=compressed)


@pytest.fixture(scope="module")
def result(measured: Measured) -> QualityResult:
    return QualityResult(reports=(measured.report,) * 2, comparison=compare_quality(measured, measured))


def test_the_page_is_complete_and_fetches_nothing(measured: Measured, result: QualityResult, tmp_path: Path) -> None:
    write_quality(result, [measured, measured], tmp_path / "new" / "report.html")
    page = (tmp_path / "new" / "report.html").read_text(encoding="utf-8")
    assert check_look(page) == measured.report.sentence.rstrip(".") + "."
    check_rendered(page, tmp_path)
    assert not re.search(r'(?:src|href)="(?!#)|url\((?!#)|https?:|@import', page)
    assert EVIL not in page
    assert "<b>texts" not in page
    assert "&lt;b&gt;texts" in page
    assert page.index(result.reports[0].sentence.split(";")[0]) < page.index("<h2>")
    assert "Texts that moved most" in page
    (data, _) = re.findall(r'<script type="application/json">(.*?)</script>', page)
    shown = json.loads(data)
    assert shown["texts"][0] == EVIL
    assert shown["names"][shown["labels"][0]] == EVIL
    assert len(shown["umap"]) == len(shown["pca"]) == len(shown["texts"]) == 71


def test_every_figure_of_the_page_has_its_meaning(judged: QualityReport) -> None:
    rows = [(group, name) for group, name, _ in figure_rows([judged])]
    meanings = [explain_figure(group, name) for group, name in rows]
    found = dict(zip(rows, meanings, strict=True))
    assert found["space", "dimension"] != found["space", "dimensions of 90 % of the variance"]
    assert found["retrieval", "recall@10"] != found["retrieval", "recall@100"]
    assert found["labels", "alignment"] != found["retrieval", "alignment"]
    assert found["changed texts", "typos, found"].startswith("Changed texts whose nearest text is the original")
    assert len({group for group, _ in rows}) == 6


def test_texts_without_a_label_are_gray_among_others(measured: Measured, tmp_path: Path) -> None:
    corpus = Corpus(measured.texts.corpus.ids, measured.texts.corpus.texts, ("", *("a", "b") * 35))
    texts = make_texts(corpus, name="texts")
    section = map_section(Measured(measured.report, texts, measured.embedded, measured.neighbors, measured.map))
    assert f'<i style="background:{UNLABELED}"></i>no label' in section
    plain = make_texts(Corpus(corpus.ids, corpus.texts, ("",) * 71), name="texts")
    section = map_section(Measured(measured.report, plain, measured.embedded, measured.neighbors, measured.map))
    assert "no label" not in section and UNLABELED not in section


def test_the_json_file_has_the_whole_result(measured: Measured, result: QualityResult, tmp_path: Path) -> None:
    write_quality(result, [measured, measured], tmp_path / "report.json")
    assert msgspec.json.decode((tmp_path / "report.json").read_bytes(), type=QualityResult) == result


def test_the_table_fits_a_terminal_and_has_the_figures(result: QualityResult, judged: QualityReport) -> None:
    stream = io.StringIO()
    Console(file=stream, width=80).print(render_quality(QualityResult(reports=(judged, judged))))
    shown = stream.getvalue()
    assert "pca-whitened" in shown and "cut (trained)" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    assert f"{result.reports[0].geometry.effective_rank:.1f}" in shown


def test_another_suffix_is_refused(measured: Measured, result: QualityResult, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"use the suffix \.html or \.json"):
        write_quality(result, [measured, measured], tmp_path / "report.pdf")
