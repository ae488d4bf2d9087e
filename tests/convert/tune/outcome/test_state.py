"""Folder of a training: a new one, the same training again, and everything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from fletcher.convert.tune.outcome.state import make_key, open_run
from fletcher.runtime.errors import InputError


def test_only_the_same_training_continues(tmp_path: Path) -> None:
    key = make_key(["qat", {"seed": 1}])
    assert open_run(tmp_path / "run", key).training == tmp_path / "run" / "training"
    open_run(tmp_path / "run", key)
    (tmp_path / "run" / "training" / "checkpoint-1").mkdir(parents=True)
    with pytest.raises(InputError, match="another checkpoint, of other data or with other options"):
        open_run(tmp_path / "run", make_key(["qat", {"seed": 2}]))


def test_options_may_change_before_the_first_checkpoint(tmp_path: Path) -> None:
    open_run(tmp_path / "run", "wrong")
    open_run(tmp_path / "run", "right")
    (tmp_path / "run" / "training" / "checkpoint-1").mkdir(parents=True)
    assert open_run(tmp_path / "run", "right").path == tmp_path / "run"
    with pytest.raises(InputError, match="with other options"):
        open_run(tmp_path / "run", "wrong")


def test_other_folders_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(InputError, match="exists and has no training"):
        open_run(tmp_path, "key")
    (tmp_path / "tune.json").write_text("[]")
    with pytest.raises(InputError, match="not a training of this version"):
        open_run(tmp_path, "key")
