"""Retention: what is found, what is due, and that nothing in use is removed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fletcher.runtime import Encoder
from fletcher.runtime.artifact.holding import hold, is_held
from fletcher.runtime.errors import InputError
from fletcher.runtime.remote.locks import shared
from fletcher.serve.audit.entry import body_of, of_event
from fletcher.serve.audit.log_file import LogFile
from fletcher.serve.audit.verify import files_of, verify
from fletcher.serve.longbow.journal.journal import Journal
from fletcher.serve.retention.places import PLACES, Folders
from fletcher.serve.retention.retention import Kept, apply, read_days, survey

DAY = 86400.0

#: A file of each kind below the cache folder, and a name that a process has left.
CACHED = {
    "measurements": "devices/abc-def-cpu-fp32.3.json",
    "tokenizers": "tokenizers/0123.1.tokenizers-0.23",
    "engines": "engines/H200-gpu-fp16-abc/record.json",
    "timings": "engines/timing-H200-abc/kernels",
    "coreml": "coreml/abc/model",
    "downloads": "pypi/some-model/checkpoint/model.safetensors",
    "remote": "artifacts/0123abcd/fletcher.json",
    "converted": "converted/org-model-abc/fletcher.json",
    "unfinished": "engines/.H200-gpu-fp16-abc.new.a1b2c3d4/engine",
}
#: Files that are never removed.
KEPT_FOREVER = ("records/source.json", "engines/.timing-H200-abc.lock", "other/file")


def age(path: Path, days: float) -> None:
    """Let a file, or a folder with all in it, be some days old."""
    for each in (*path.rglob("*"), path):
        os.utime(each, (time.time() - days * DAY,) * 2)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    cache = tmp_path / "cache"
    for name in (*CACHED.values(), *KEPT_FOREVER):
        file = cache / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * 5000)
    for name in ("artifacts", "journals"):
        (tmp_path / name).mkdir()
    return Folders(cache, (tmp_path / "artifacts",), (tmp_path / "journals",))


def states(found: Iterator[Kept] | list[Kept]) -> dict[str, str]:
    return {each.kind: each.state for each in found}


def test_everything_is_found_with_size_and_age(folders: Folders) -> None:
    age(folders.cache / "devices", 3)
    found = list(survey(folders, read_days(())))
    assert {each.kind for each in found} == set(CACHED)
    (measurement,) = (each for each in found if each.kind == "measurements")
    assert measurement.path.endswith(CACHED["measurements"])
    assert measurement.bytes >= 5000 and measurement.days == pytest.approx(3, abs=0.01)
    assert {each.state for each in found} == {"kept"}


def test_what_is_old_is_due_and_removed(folders: Folders) -> None:
    age(folders.cache, 400)
    age(folders.cache / "coreml", 89)
    found = list(survey(folders, read_days(())))
    assert states(found) == dict.fromkeys(CACHED, "due") | {"coreml": "kept"}
    assert all((folders.cache / name).exists() for name in CACHED.values())  # a survey removes nothing
    assert states(apply(found)) == dict.fromkeys(CACHED, "removed") | {"coreml": "kept"}
    left = {str(path.relative_to(folders.cache)) for path in folders.cache.rglob("*") if path.is_file()}
    assert left == {*KEPT_FOREVER, CACHED["coreml"]}


def test_days_of_a_kind_can_be_given(folders: Folders) -> None:
    age(folders.cache, 100)
    chosen = read_days(["measurements=7", "engines=forever"])
    found = states(survey(folders, chosen))
    assert (found["measurements"], found["engines"], found["downloads"]) == ("due", "kept", "due")


@pytest.mark.parametrize("text", ["engines", "engine=3", "engines=soon", "engines=-1", "engines=nan"])
def test_wrong_days_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="--keep"):
        read_days([text])


def test_artifacts_and_journals_stay_unless_their_kind_is_named(folders: Folders, tiny_artifact: Path) -> None:
    shutil.copytree(tiny_artifact, folders.artifacts[0] / "tiny")
    (folders.artifacts[0] / "notes").mkdir()  # not an artifact
    Journal(folders.journals[0] / "docs.journal", {}).close()
    for path in (*folders.artifacts, *folders.journals):
        age(path, 5000)
    assert states(survey(folders, read_days(())))["artifacts"] == "kept"
    found = list(survey(folders, read_days(["artifacts=30", "journals=30"])))
    assert (states(found)["artifacts"], states(found)["journals"]) == ("due", "due")
    list(apply(found))
    assert [path.name for path in folders.artifacts[0].iterdir()] == ["notes"]
    assert not list(folders.journals[0].iterdir())


def test_a_loaded_artifact_stays_and_so_does_a_configured_one(folders: Folders, tiny_artifact: Path) -> None:
    loaded, configured = (folders.artifacts[0] / name for name in ("loaded", "configured"))
    for path in (loaded, configured):
        shutil.copytree(tiny_artifact, path)
    age(folders.artifacts[0], 100)
    days, reserved = read_days(["artifacts=30"]), frozenset({configured})
    with Encoder.load(loaded, provider="mlas"):
        found = list(survey(folders, days, reserved))
        assert [each.state for each in found if each.kind == "artifacts"] == ["in use", "in use"]
        # It came into use between the survey and the removal.
        late = [Kept("artifacts", str(loaded), 1, 100.0, 30.0, "due")]
        assert [each.state for each in apply(late)] == ["in use"]
    assert loaded.exists()
    found = list(apply(list(survey(folders, days, reserved)), reserved))
    assert {Path(each.path).name: each.state for each in found if each.kind == "artifacts"} == {
        "loaded": "removed",
        "configured": "in use",
    }


PROGRAM = """
import sys
from pathlib import Path
{code}
print("ready", flush=True)
sys.stdin.read()
"""


def running(code: str) -> subprocess.Popen[str]:
    """Start another process that runs some code and then waits for the end of its input."""
    program = [sys.executable, "-c", PROGRAM.format(code=code)]
    process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (
            "downloads",
            "import mmap; file = open({path!r} + '/checkpoint/model.safetensors', 'r+b')\n"
            "view = mmap.mmap(file.fileno(), 0); file.close()",
        ),
        ("engines", "from fletcher.runtime.artifact.holding import hold; held = hold(Path({path!r}, 'record.json'))"),
    ],
)
def test_what_another_process_uses_stays(kind: str, code: str, folders: Folders) -> None:
    age(folders.cache, 400)
    path = str((folders.cache / CACHED[kind]).parents[1 if kind == "downloads" else 0])
    with running(code.format(path=path)) as process:
        age(folders.cache, 400)  # `hold` set the time of last use
        assert states(survey(folders, read_days(())))[kind] == "in use"
        process.kill()
    assert states(survey(folders, read_days(())))[kind] == "due"


def test_the_journal_of_a_running_job_stays(folders: Folders) -> None:
    path = folders.journals[0] / "docs.journal"
    days = read_days(["journals=0"])
    with running(
        f"from fletcher.serve.longbow.journal.journal import Journal; journal = Journal(Path({str(path)!r}), {{}})"
    ) as job:
        age(folders.journals[0], 10)
        assert states(survey(folders, days))["journals"] == "in use"
        job.kill()
    age(folders.journals[0], 10)
    assert states(apply(list(survey(folders, days))))["journals"] == "removed"
    assert not list(folders.journals[0].iterdir())


def test_links_are_neither_followed_nor_removed(folders: Folders, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("precious")
    (folders.cache / "coreml" / "link").symlink_to(outside)
    (folders.cache / "coreml" / "abc" / "link").symlink_to(outside)
    age(folders.cache / "devices", 0)
    found = [each for each in survey(folders, read_days(["coreml=0"])) if each.kind == "coreml"]
    assert [Path(each.path).name for each in found] == ["abc"]
    assert [each.state for each in apply(found)] == ["removed"]
    assert (outside / "file").read_text() == "precious"
    assert (folders.cache / "coreml" / "link").is_symlink()


def test_every_kind_says_what_its_removal_costs() -> None:
    assert all(place.text for place in PLACES)
    assert len({place.kind for place in PLACES}) == len(PLACES)


def test_a_held_file_is_held_until_it_is_closed(tmp_path: Path) -> None:
    file = tmp_path / "file"
    assert not is_held(file) and hold(file) is None
    file.write_text("")
    age(file, 10)
    first, second = hold(file), hold(file)
    assert first is not None and second is not None
    assert time.time() - file.stat().st_mtime < 60
    assert is_held(file)
    first.close()
    assert is_held(file)
    second.close()
    assert not is_held(file)


def test_rotated_files_of_an_audit_log_go_by_their_age_and_the_chain_of_the_others_holds(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = LogFile(path, most_bytes=400)
    for number in range(12):
        log.append([body_of(of_event("change", float(number), {"subject": f"model-{number}"}))])
    log.close()
    (tmp_path / "other.jsonl.000000000001").write_text("x")
    rotated = files_of(path)[:-1]
    assert len(rotated) >= 3
    for old in rotated[:2]:
        age(old, 500)
    folders = Folders(tmp_path / "cache", audit=(path,))
    assert states(survey(folders, read_days([]))) == {"audit": "kept"}
    days = read_days(["audit=400"])
    found = list(survey(folders, days))
    assert [each.state for each in found] == ["due", "due", *["kept"] * (len(rotated) - 2)]
    assert [each.state for each in apply(found)] == ["removed", "removed", *["kept"] * (len(rotated) - 2)]
    assert not any(old.exists() for old in rotated[:2]) and path.exists()
    result = verify(files_of(path))
    assert not result.faults and result.first > 1


def test_rows_that_a_job_could_not_use_stay_until_they_are_named(folders: Folders, tmp_path: Path) -> None:
    failed = tmp_path / "journals" / "documents.failed.jsonl"
    failed.write_text("{}\n")
    age(failed, 900)
    assert states(survey(folders, read_days([])))["failed rows"] == "kept"
    found = list(survey(folders, read_days(["failed rows=30"])))
    assert {each.kind for each in apply(found) if each.state == "removed"} == {"failed rows"}
    assert not failed.exists()


def test_a_downloaded_artifact_counts_from_its_latest_use_and_stays_while_it_is_locked(folders: Folders) -> None:
    artifact = folders.cache / "artifacts" / "0123abcd"
    lock = folders.cache / "artifacts" / ".locks" / "0123abcd"
    lock.parent.mkdir()
    lock.touch()
    age(artifact, 500)
    assert states(survey(folders, read_days([])))["remote"] == "kept"
    age(lock, 100)
    assert states(survey(folders, read_days([])))["remote"] == "due"
    with shared(lock):  # a server uses it
        age(lock, 100)
        found = list(survey(folders, read_days([])))
        assert states(found)["remote"] == "in use"
        list(apply(found))
        assert artifact.is_dir()
    age(lock, 100)
    list(apply(list(survey(folders, read_days(["remote=1"])))))
    assert not artifact.exists() and lock.exists()
