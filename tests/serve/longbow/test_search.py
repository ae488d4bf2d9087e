"""Searches in a dataset, and the commands `ingest` and `search`."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fletcher.runtime import Artifact, Encoder
from fletcher.runtime.commandline.console import run as run_app
from fletcher.runtime.errors import InputError
from fletcher.runtime.options.embed import EmbedOptions
from fletcher.serve.commands.cli import app
from fletcher.serve.longbow.wire.search import search
from fletcher.serve.longbow.wire.target import Target

from ...doubles.longbow import LongbowDouble
from .conftest import RunJob
from .unit_encoder import UnitEncoder, unit_vector


def ask(longbow: LongbowDouble, text: str, encoder: UnitEncoder | None = None, **options: Any) -> Any:
    k = options.pop("k", 3)
    embed = EmbedOptions(input_type="query").replace(**options)
    return search(cast(Encoder, encoder or UnitEncoder()), Target(longbow.url), "docs", text, k=k, options=embed)


def test_hits_have_text_and_metadata(run: RunJob, longbow: LongbowDouble) -> None:
    run([{"text": f"text {number}", "n": number} for number in range(20)])
    hits = ask(longbow, "text 7")
    assert (hits[0].text, hits[0].metadata["fields"]) == ("text 7", {"n": 7})
    assert hits[0].score > hits[1].score > hits[2].score
    assert len(hits) == 3


def test_replaced_and_removed_documents_are_not_found(run: RunJob, longbow: LongbowDouble) -> None:
    first = [{"text": f"text {number}", "n": number} for number in range(20)]
    run(first, id_column="n")
    second = [{"text": "changed" if row["n"] == 7 else row["text"], "n": row["n"]} for row in first if row["n"] != 3]
    assert run(second, id_column="n", remove_missing=True).tombstones == 2
    raw = longbow.store.search("docs", unit_vector("text 7").tolist(), 1)
    assert raw.column("id").to_pylist() == [7]  # Longbow itself still finds the former text
    for _ in range(2):
        hits = ask(longbow, "text 7", k=19)
        assert sorted(hit.text for hit in hits) == sorted(str(row["text"]) for row in second)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        assert "text 3" not in {hit.text for hit in ask(longbow, "text 3")}
        assert ask(longbow, "changed")[0].score == pytest.approx(1.0)
        longbow.store.restart()  # a restart undoes deletions
    run(first, id_column="n")
    assert [ask(longbow, text)[0].text for text in ("text 3", "text 7")] == ["text 3", "text 7"]


def test_the_query_gets_its_prompt(run: RunJob, longbow: LongbowDouble) -> None:
    run(["prompted:what", "what"])
    assert ask(longbow, "what", input_type="prompted")[0].text == "prompted:what"


def test_invalid_queries(run: RunJob, longbow: LongbowDouble) -> None:
    with pytest.raises(InputError, match="has no dataset 'docs'"):
        ask(longbow, "a")
    run(["a", "b"])
    with pytest.raises(InputError, match="the text is empty"):
        ask(longbow, " ")
    with pytest.raises(InputError, match="holds vectors of unit"):
        ask(longbow, "a", UnitEncoder(digest="another"))
    with pytest.raises(InputError, match="dimension mismatch"):
        ask(longbow, "a", UnitEncoder(dimension=4))


def test_the_commands(
    longbow: LongbowDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Loaded(UnitEncoder):
        def __enter__(self) -> Loaded:
            return self

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr("sys.excepthook", lambda *_: None)
    manifest = SimpleNamespace(card=Loaded().info.card, variants=())  # the command compares its options with it
    monkeypatch.setattr(Artifact, "open", lambda path: SimpleNamespace(manifest=manifest))
    monkeypatch.setattr(Encoder, "load", lambda path, options: Loaded())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.txt").write_text("one\ntwo\n\none\n")
    where = ["--longbow", longbow.url, "--dataset", "my/docs", "--json"]
    with pytest.raises(SystemExit) as end:
        run_app(app, ["ingest", "model", "-i", "texts.txt", "--on-error", "skip", *where])
    assert end.value.code == 0
    out, err = capsys.readouterr()
    summary = json.loads(out)
    assert {name: summary[name] for name in ("read", "sent", "known", "duplicates", "failed", "missing")} == {
        "read": 4,
        "sent": 2,
        "known": 0,
        "duplicates": 1,
        "failed": 1,
        "missing": 0,
    }
    assert "1 rows could not be used; the first: texts.txt, row 2 (from 0): there is no text" in err
    assert sorted(path.name for path in tmp_path.glob("my_docs*")) == ["my_docs.failed.jsonl", "my_docs.journal"]
    with pytest.raises(SystemExit) as end:
        run_app(app, ["search", "model", "two", "-k", "1", *where])
    assert end.value.code == 0
    assert json.loads(capsys.readouterr().out)[0]["text"] == "two"
