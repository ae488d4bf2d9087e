"""The file of keys: writers at the same time, links, permissions, the last key, and the time of the last use."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fletcher.runtime.errors import InputError
from fletcher.serve.access.keys import Keys
from fletcher.serve.access.keys_file import add_key, read_keys, remove_key
from fletcher.serve.access.last_use import read_last_use

ADD = """
import sys
from pathlib import Path
from fletcher.serve.access.keys_file import add_key
add_key(Path(sys.argv[1]), sys.argv[2])
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_writers_at_the_same_time_lose_no_key(file: Path) -> None:
    add_key(file, "first")
    threads = [threading.Thread(target=add_key, args=(file, f"key {number}")) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_keys(file)) == 41


def test_processes_at_the_same_time_lose_no_key(file: Path) -> None:
    running = [subprocess.Popen([sys.executable, "-c", ADD, str(file), f"key {number}"]) for number in range(6)]
    assert [process.wait(60) for process in running] == [0] * 6
    assert {key.name for key in read_keys(file)} == {f"key {number}" for number in range(6)}


def test_a_key_that_is_removed_beside_others_stays_removed(file: Path) -> None:
    for number in range(20):
        add_key(file, f"old {number}")
    threads = [threading.Thread(target=remove_key, args=(file, f"old {number}")) for number in range(20)]
    threads += [threading.Thread(target=add_key, args=(file, f"new {number}")) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key.name for key in read_keys(file)} == {f"new {number}" for number in range(20)}


def test_a_link_stays_a_link(tmp_path: Path, file: Path) -> None:
    target = tmp_path / "data" / "secret.json"
    target.parent.mkdir()
    add_key(target, "ann")
    file.symlink_to(target)
    add_key(file, "bob")
    assert file.is_symlink()
    assert [key.name for key in read_keys(target)] == ["ann", "bob"]


def test_the_permissions_of_the_file_stay(file: Path) -> None:
    add_key(file, "ann")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o640)
    add_key(file, "bob")
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


@pytest.mark.parametrize("mode", [0o666, 0o620, 0o602])
def test_a_file_that_others_can_write_is_refused(file: Path, mode: int) -> None:
    add_key(file, "ann")
    file.chmod(mode)
    with pytest.raises(InputError, match=f"permissions {mode:o}.*chmod go-w"):
        Keys(file)
    with pytest.raises(InputError, match="chmod go-w"):
        add_key(file, "bob")


def test_the_last_key_can_be_revoked(file: Path) -> None:
    token = add_key(file, "ann")
    keys = Keys(file)
    assert keys.find(token) is not None
    remove_key(file, "ann")
    keys.reload()
    assert keys.find(token) is None
    assert Keys(file).find(token) is None  # a server that starts with the empty file lets no caller in


def test_a_file_that_was_removed_revokes_all_and_a_broken_one_nothing(file: Path) -> None:
    token = add_key(file, "ann")
    keys = Keys(file)
    file.write_text("broken")
    with pytest.raises(InputError):
        keys.reload()
    assert keys.find(token) is not None
    file.unlink()
    keys.reload()
    assert keys.find(token) is None
    with pytest.raises(InputError):
        Keys(file)  # a wrong path at the start is an error


def test_the_last_use_is_known(file: Path) -> None:
    token = add_key(file, "ann")
    add_key(file, "bob")
    before = file.stat().st_mtime
    keys, other = Keys(file), Keys(file)
    other.find("wrong")
    keys.find(token)
    for each in (keys, other):
        each.close()
    used = read_last_use(file)
    assert used.keys() == {"ann"}
    assert used["ann"] >= before - 1
    assert stat.S_IMODE(file.with_name("keys.json.used").stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_stops_no_server(file: Path) -> None:
    token = add_key(file, "ann")
    file.parent.chmod(0o500)
    try:
        keys = Keys(file)
        assert keys.find(token) is not None
        keys.close()
    finally:
        file.parent.chmod(0o700)
