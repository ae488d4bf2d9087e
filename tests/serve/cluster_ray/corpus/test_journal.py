"""The journal of a job: finished parts, and jobs that are not the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from fletcher.runtime.errors import InputError
from fletcher.serve.cluster_ray.corpus.journal import Done, PartJournal

FACTS = {"model": "11", "rows": "30"}


@pytest.mark.parametrize("kind", ["path", "url"])
def test_finished_parts_are_found_again(tmp_path: Path, kind: str) -> None:
    folder = str(tmp_path / "out" / "_fletcher") if kind == "path" else f"file://{tmp_path}/out/_fletcher"
    first = PartJournal(folder, FACTS, 7)
    assert (first.resumed, first.done, first.baseline) == (False, {}, 7)
    first.finish(Done(2, rows=10, node="a"))
    first.finish(Done(0, rows=20, node="b"))
    again = PartJournal(folder, FACTS, 99)  # the baseline is that of the first run
    assert (again.resumed, again.baseline, again.identity) == (True, 7, first.identity)
    assert again.done == {0: Done(0, rows=20, node="b"), 2: Done(2, rows=10, node="a")}
    assert not list(tmp_path.rglob("*.partial"))


def test_another_job_is_named(tmp_path: Path) -> None:
    PartJournal(str(tmp_path), FACTS)
    with pytest.raises(InputError, match="journal of another job: its model is '11', and this job's is '22'"):
        PartJournal(str(tmp_path), {**FACTS, "model": "22"})


def test_what_was_not_written_as_a_whole_is_no_part(tmp_path: Path) -> None:
    journal = PartJournal(str(tmp_path), FACTS)
    (tmp_path / "parts" / "000001.json.abcd.partial").write_text('{"number"')
    assert PartJournal(str(tmp_path), FACTS).done == journal.done == {}


def test_a_damaged_journal_is_named(tmp_path: Path) -> None:
    PartJournal(str(tmp_path), FACTS).finish(Done(1))
    (tmp_path / "parts" / "000001.json").write_text("{")
    with pytest.raises(InputError, match="cannot be used"):
        PartJournal(str(tmp_path), FACTS)
