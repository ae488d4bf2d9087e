"""Training itself: seeds, a process that is killed, early stopping, losses that are not numbers, full disks."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fletcher.convert.tune.training.task import Trained
from fletcher.runtime.errors import InputError

from .training_run import OPTIONS, make_task, train

pytest.importorskip("accelerate")
pytest.importorskip("datasets")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[4]


@pytest.fixture(scope="module")
def whole(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Return a training without an interruption."""
    return train(tiny_checkpoint, tmp_path_factory.mktemp("whole"))


def test_every_step_has_a_loss_and_every_third_one_a_metric(whole: Trained) -> None:
    losses = [point.step for point in whole.log if point.loss is not None]
    assert losses == list(range(1, 25))
    metrics = {point.step: point.metric for point in whole.log if point.metric is not None}
    assert list(metrics) == list(range(3, 25, 3))
    assert (whole.best_step, whole.best_metric) == max(metrics.items(), key=lambda item: item[1])
    assert (whole.steps, whole.resumed_from, whole.stopped_early) == (24, None, False)


def test_the_model_has_the_weights_of_the_best_step(tiny_checkpoint: Path, whole: Trained, tmp_path: Path) -> None:
    task = make_task(tiny_checkpoint)
    from fletcher.convert.tune.training.run import run_training
    from fletcher.model_zoo.progress import SILENT

    trained = run_training(task, OPTIONS, tmp_path, SILENT)
    assert trained.log == whole.log  # the seed decides everything
    assert task.validate(task.model) == pytest.approx(whole.best_metric, abs=1e-6)
    other = train(tiny_checkpoint, tmp_path / "other", OPTIONS.replace(seed=1))
    assert other.log != whole.log


def test_a_killed_training_continues_with_the_same_losses(
    tiny_checkpoint: Path, whole: Trained, tmp_path: Path
) -> None:
    from fletcher.convert.tune.training.trainer import complete_checkpoints

    folder, output = tmp_path / "training", tmp_path / "result.json"
    module = "tests.convert.tune.training.training_run"
    command = [sys.executable, "-m", module, str(tiny_checkpoint), str(folder), str(output)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    _wait(process, lambda: bool(complete_checkpoints(folder)))
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not output.exists()
    # A checkpoint that the process was writing when it was killed must not be used.
    (folder / "checkpoint-999").mkdir()
    (folder / "checkpoint-999" / "trainer_state.json").write_text('{"global_step": 9')
    subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True, timeout=600)
    result = msgspec.json.decode(output.read_bytes(), type=Trained)
    assert result.resumed_from is not None
    assert result.resumed_from % 3 == 0
    assert result.log == whole.log
    assert (result.best_step, result.steps) == (whole.best_step, whole.steps)


def _wait(process: subprocess.Popen[bytes], condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 600
    while not condition():
        assert process.poll() is None, "the training ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_metric_that_does_not_rise_stops_the_training(tiny_checkpoint: Path, tmp_path: Path) -> None:
    trained = train(tiny_checkpoint, tmp_path, OPTIONS.replace(patience=2), validate=lambda model: 0.5)
    assert (trained.steps, trained.planned, trained.best_step) == (9, 24, 3)
    assert trained.stopped_early


def test_an_interruption_does_not_change_the_step_that_stops(tiny_checkpoint: Path, tmp_path: Path) -> None:
    options, calls = OPTIONS.replace(patience=3), 0

    def validate(model: Any) -> float:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt  # after the second checkpoint, when one of three validations brought nothing
        return 0.5

    expected = train(tiny_checkpoint, tmp_path / "whole", options, validate=lambda model: 0.5)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_checkpoint, tmp_path / "broken", options, validate=validate)
    continued = train(tiny_checkpoint, tmp_path / "broken", options, validate=validate)
    assert continued.resumed_from == 6
    assert (continued.steps, continued.log) == (expected.steps, expected.log)
    assert expected.steps == 12


@pytest.mark.parametrize(("patience", "steps"), [(0, 24), (2, 9)])
def test_a_training_that_was_killed_after_its_last_step_is_not_trained_further(
    patience: int, steps: int, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    from fletcher.convert.tune.training.run import RESULT

    options = OPTIONS.replace(patience=patience)
    first = train(tiny_checkpoint, tmp_path, options, validate=lambda model: 0.5)
    (tmp_path / RESULT).unlink()
    again = train(tiny_checkpoint, tmp_path, options, validate=lambda model: 0.5)
    assert (again.steps, again.resumed_from) == (steps, steps)
    assert (again.log, again.best_step, again.best_metric) == (first.log, first.best_step, first.best_metric)


def test_a_loss_that_is_not_a_number_is_an_error(tiny_checkpoint: Path, tmp_path: Path) -> None:
    task = make_task(tiny_checkpoint)
    calls = 0

    class Broken(type(task.loss)):  # type: ignore[misc]
        def forward(self, *args: Any) -> Any:
            nonlocal calls
            calls += 1
            loss = super().forward(*args)
            return loss * float("nan") if calls > 4 else loss

    task.loss.__class__ = Broken
    from fletcher.convert.tune.training.run import run_training
    from fletcher.model_zoo.progress import SILENT

    with pytest.raises(
        InputError, match=r"the loss of step 5 is nan: lower --learning-rate. Checkpoints kept: checkpoint-3"
    ):
        run_training(task, OPTIONS, tmp_path, SILENT)
    assert (tmp_path / "checkpoint-3" / "trainer_state.json").is_file()


def test_weights_that_are_not_numbers_are_found_before_they_are_a_checkpoint(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    options = OPTIONS.replace(steps=1, evaluations=1, warmup=0, learning_rate=1e39)  # beyond float32
    with pytest.raises(InputError, match=r"step 1 have NaN or infinity: lower --learning-rate. No checkpoint is kept"):
        train(tiny_checkpoint, tmp_path, options)
    assert not list(tmp_path.glob("checkpoint-*"))


@pytest.fixture
def small_files(tmp_path: Path) -> Iterator[Callable[[int], None]]:
    """Yield a function that limits the size of files, so that the system itself refuses a write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_checkpoint_that_does_not_fit_leaves_the_earlier_ones(
    tiny_checkpoint: Path, tmp_path: Path, small_files: Callable[[int], None]
) -> None:
    validations = 0

    def validate(model: Any) -> float:
        nonlocal validations
        validations += 1
        if validations == 2:
            small_files(20_000)  # the weights alone have more bytes
        return float(validations)

    with pytest.raises(InputError, match=r"no space is left in .* for the checkpoint of step 6 .* kept: checkpoint-3"):
        train(tiny_checkpoint, tmp_path, validate=validate)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]


def test_a_full_disk_is_found_before_the_training(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage)
    with pytest.raises(InputError, match=r"the checkpoints of the training need .* MB in .*, and 0 MB are free"):
        train(tiny_checkpoint, tmp_path)


def test_texts_longer_than_the_model_allows(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--max-tokens 21: the model's longest input has 20 tokens"):
        train(tiny_checkpoint, tmp_path, OPTIONS.replace(max_tokens=21))
