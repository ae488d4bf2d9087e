"""`ServerOptions`: the number of front processes."""

from __future__ import annotations

import pytest

from fletcher.runtime.errors import OptionError
from fletcher.runtime.machine import gpus, machine
from fletcher.runtime.machine.gpus import Gpu, GpuSystem
from fletcher.runtime.machine.machine import Machine
from fletcher.serve.server_options import ServerOptions

GPU = Gpu(0, "NVIDIA H200", 1 << 37, (9, 0), "0000:00:00.0")


@pytest.mark.parametrize(("value", "count"), [(0, 0), (3, 3), ("0", 0), ("12", 12), (256, 256)])
def test_a_number_of_fronts(value: int | str, count: int) -> None:
    assert ServerOptions(fronts=value).front_count == count


@pytest.mark.parametrize("value", [-1, 257, "many", "", "1.5", "-1", "²", "10000000000000"])
def test_a_number_of_fronts_that_is_refused(value: int | str) -> None:
    with pytest.raises(OptionError, match="use auto or a whole number from 0 to 256") as raised:
        ServerOptions(fronts=value)
    assert raised.value.field == "fronts"


@pytest.mark.parametrize(
    ("cores", "found", "count"), [(16, (), 0), (2, (GPU,), 1), (8, (GPU,), 4), (16, (GPU,), 12), (64, (GPU,), 12)]
)
def test_auto_fits_the_machine(monkeypatch: pytest.MonkeyPatch, cores: int, found: tuple[Gpu, ...], count: int) -> None:
    processors = tuple(range(cores))
    monkeypatch.setattr(gpus, "this_gpus", lambda: GpuSystem(found))
    monkeypatch.setattr(machine, "this_machine", lambda: Machine("", frozenset(), processors, (processors,), 1 << 30))
    assert ServerOptions().front_count == count
