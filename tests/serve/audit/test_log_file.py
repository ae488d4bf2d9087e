"""The file of an audit log, and the check of it. The hashes are computed here as docs/reference/audit.md says."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fletcher.runtime.errors import InputError
from fletcher.serve.audit.chain import Head, read_head
from fletcher.serve.audit.log_file import LogFile, rotated_files
from fletcher.serve.audit.verify import files_of, verify

LARGE = 1 << 30


def bodies(count: int, start: int = 0) -> list[bytes]:
    return [b'"event":"request","texts":%d' % number for number in range(start, start + count)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def log(path: Path) -> Path:
    """A log of twelve lines."""
    file = LogFile(path, LARGE)
    for start in range(0, 12, 4):
        file.append(bodies(4, start))
    file.close()
    return path


def test_each_line_has_its_number_and_the_hash_of_the_line_before(log: Path) -> None:
    digest = "0" * 64
    for number, line in enumerate(log.read_bytes().splitlines(keepends=True), 1):
        content = json.loads(line)
        assert content == {"seq": number, "event": "request", "texts": number - 1, "prev": digest}
        digest = hashlib.sha256(line).hexdigest()
    findings = verify([log])
    assert (findings.lines, findings.first, findings.faults) == (12, 1, [])
    assert findings.head == Head(12, digest)
    assert log.stat().st_mode & 0o777 == 0o600


def test_a_restart_continues_the_chain(log: Path) -> None:
    file = LogFile(log, LARGE)
    file.append(bodies(3))
    file.close()
    findings = verify([log])
    assert (findings.lines, findings.faults) == (15, [])


@pytest.mark.parametrize("line", range(12))
def test_a_changed_line_is_found(log: Path, line: int) -> None:
    lines = log.read_bytes().splitlines(keepends=True)
    head = verify([log]).head
    lines[line] = lines[line].replace(b'"event":"request"', b'"event":"refused"')
    log.write_bytes(b"".join(lines))
    faults = verify([log], [head]).faults
    assert len(faults) == 1
    # The last line has no line behind it: only a head that was kept shows the change.
    assert (f"line {line + 1} was changed" in faults[0]) if line < 11 else ("is not the one of the head" in faults[0])
    assert bool(verify([log]).faults) == (line < 11)


@pytest.mark.parametrize("line", range(12))
def test_a_missing_line_is_found(log: Path, line: int) -> None:
    lines = log.read_bytes().splitlines(keepends=True)
    head, first = verify([log]).head, Head(1, hashlib.sha256(lines[0]).hexdigest())
    del lines[line]
    log.write_bytes(b"".join(lines))
    faults = verify([log], [first, head]).faults
    assert faults
    if line == 0:
        assert "line 1 of a head that was kept is missing before the beginning" in faults[0]
    elif line == 11:
        assert "line 12 of a head that was kept is missing after the end" in faults[0]
    else:
        assert f"lines {line + 1} to {line + 1} are missing before line {line + 2}" in faults[0]


@pytest.mark.parametrize("line", range(11))
def test_reordered_lines_are_found(log: Path, line: int) -> None:
    lines = log.read_bytes().splitlines(keepends=True)
    lines[line], lines[line + 1] = lines[line + 1], lines[line]
    log.write_bytes(b"".join(lines))
    assert any("the order was changed" in fault for fault in verify([log]).faults)


@pytest.mark.parametrize("line", range(12))
def test_an_added_line_is_found(log: Path, line: int) -> None:
    lines = log.read_bytes().splitlines(keepends=True)
    lines.insert(line, lines[line].replace(b"request", b"refused"))
    log.write_bytes(b"".join(lines))
    assert verify([log]).faults


def test_a_log_that_was_written_anew_needs_a_head(log: Path, path: Path) -> None:
    kept = verify([log]).head
    log.unlink()
    log.with_name(f".{log.name}.lock").unlink()
    file = LogFile(path, LARGE)
    file.append([b'"event":"request","texts":9'] * 12)
    file.close()
    assert not verify([path]).faults
    assert "line 12 is not the one of the head" in verify([path], [kept]).faults[0]


def test_lines_that_are_not_of_a_log_are_found(log: Path) -> None:
    content = log.read_bytes()
    for bad in (content[:-10], content + b"\n", content + b"garbage\n", content.replace(b'"seq":5', b'"seq":x')):
        log.write_bytes(bad)
        assert verify([log]).faults


def test_the_log_rotates_by_size_and_stays_one_chain(path: Path) -> None:
    file = LogFile(path, 1000)
    for start in range(30):
        file.append(bodies(1, start))
    file.close()
    rotated = rotated_files(path)
    assert len(rotated) >= 3
    assert all(one.stat().st_size < 1300 for one in [*rotated, path])
    findings = verify(files_of(path))
    assert (findings.lines, findings.first, findings.faults) == (30, 1, [])
    rotated[1].unlink()
    assert "are missing" in verify(files_of(path)).faults[0]
    rotated[0].unlink()  # a log may begin later: retention removes files
    findings = verify(files_of(path))
    assert findings.first > 1 and not findings.faults


def test_a_restart_after_a_rotation_continues_the_chain(path: Path) -> None:
    file = LogFile(path, 1)
    file.append(bodies(1))
    file.append(bodies(1))
    file.close()
    path.unlink()  # as if the server had ended between the two steps of a rotation
    file = LogFile(path, LARGE)
    assert file.head.seq == 1
    file.append(bodies(1))
    file.close()
    assert not verify(files_of(path)).faults


def test_a_log_that_was_moved_goes_on_in_a_new_file(log: Path, tmp_path: Path) -> None:
    file = LogFile(log, LARGE)
    file.reopen()  # nothing was moved
    file.append(bodies(1))
    moved = log.rename(tmp_path / "old.jsonl")
    file.append(bodies(1))  # the moved file gets lines until the signal
    file.reopen()
    file.append(bodies(2))
    file.close()
    assert len(log.read_bytes().splitlines()) == 2
    assert verify([moved, log]).lines == 16
    assert not verify([moved, log]).faults


def test_a_line_that_was_cut_off_is_replaced_by_a_line_about_it(log: Path) -> None:
    whole = log.read_bytes()
    log.write_bytes(whole[:-30])
    LogFile(log, LARGE).close()
    findings = verify([log])
    assert not findings.faults
    last = json.loads(log.read_bytes().splitlines()[-1])
    cut = len(whole.splitlines(keepends=True)[-1]) - 30
    assert (last["seq"], last["event"], last["count"]) == (12, "recovered", cut)


@pytest.mark.parametrize("content", [b"hello\n", b'{"a": 1}\n', b"x" * 300_000])
def test_another_file_is_not_continued(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"--audit .*audit.jsonl is not an audit log"):
        LogFile(path, LARGE)
    assert path.read_bytes() == content


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--audit .* cannot be written"):
        LogFile(tmp_path / "absent" / "audit.jsonl", LARGE)


def test_two_servers_do_not_write_one_log(log: Path) -> None:
    file = LogFile(log, LARGE)
    script = (
        "import sys; from pathlib import Path; from fletcher.serve.audit.log_file import LogFile\n"
        "LogFile(Path(sys.argv[1]), 1 << 30)"
    )
    other = subprocess.run([sys.executable, "-c", script, str(log)], capture_output=True, text=True, check=False)
    assert "another server writes this log" in other.stderr
    file.close()
    LogFile(log, LARGE).close()


def test_a_full_disk_leaves_no_part_of_a_line(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = LogFile(log, LARGE)
    before = log.read_bytes()
    write, calls = os.write, []

    def full(descriptor: int, data: memoryview) -> int:
        calls.append(len(data))
        if len(calls) == 1:
            return write(descriptor, data[:20])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        file.append(bodies(2))
    monkeypatch.undo()
    assert log.read_bytes() == before
    file.append(bodies(2))
    file.close()
    assert verify([log]).lines == 14
    assert not verify([log]).faults


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_the_systems_error_of_a_full_device_is_an_error_of_append(log: Path) -> None:
    file = LogFile(log, LARGE)
    own, file._file = file._file, os.open("/dev/full", os.O_RDWR)
    with pytest.raises(OSError):
        file.append(bodies(1))
    os.close(file._file)
    file._file = own
    file.append(bodies(1))
    file.close()
    assert not verify([log]).faults


@pytest.mark.parametrize("text", ["", "1", "1:abc", "x:" + "0" * 64, "1:" + "G" * 64])
def test_a_head_has_a_number_and_a_hash(text: str) -> None:
    with pytest.raises(InputError, match="SEQ:SHA256"):
        read_head(text)
    head = Head(7, "ab" * 32)
    assert read_head(str(head)) == head
