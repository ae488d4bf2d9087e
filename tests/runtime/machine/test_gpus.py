"""GPUs of the machine as the driver lists them, and errors without a driver."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from fletcher.runtime.errors import DeviceLostError, DeviceMemoryError, ProviderError
from fletcher.runtime.machine import cuda_driver
from fletcher.runtime.machine.cuda_driver import CudaDriver, DeviceMemory, load_driver
from fletcher.runtime.machine.gpus import read_gpus
from fletcher.runtime.machine.machine import Machine
from tests.doubles.cuda import FakeCuda

MACHINE = Machine("x", frozenset(), (0, 1, 2, 3), ((0, 1), (2, 3)), 1 << 30)


def _machine_with_two_nodes(root: Path) -> Path:
    folder = root / "sys/bus/pci/devices/0000:0b:00.0"
    folder.mkdir(parents=True)
    (folder / "local_cpulist").write_text("2-3,8\n")
    (root / "sys/module/nvidia").mkdir(parents=True)
    (root / "sys/module/nvidia/version").write_text("580.159.04\n")
    return root


def test_each_gpu_is_described_with_the_processors_near_it(tmp_path: Path) -> None:
    system = read_gpus(FakeCuda(2).driver(), _machine_with_two_nodes(tmp_path), MACHINE, {})
    assert (system.driver, system.cuda, system.problem) == ("580.159.04", (13, 0), None)
    assert [gpu.name for gpu in system.gpus] == ["Fake 0", "Fake 1"]
    assert [gpu.capability for gpu in system.gpus] == [(9, 0), (9, 0)]
    assert [gpu.processors for gpu in system.gpus] == [(), (2, 3)]
    one = dataclasses.replace(MACHINE, numa_nodes=((0, 1, 2, 3),))
    assert read_gpus(FakeCuda(2).driver(), tmp_path, one, {}).gpus[1].processors == ()


def test_an_old_driver_is_reported_with_the_required_version(tmp_path: Path) -> None:
    system = read_gpus(FakeCuda(version=12040).driver(), tmp_path, MACHINE, {})
    assert not system.gpus
    assert "CUDA up to 12.4" in str(system.problem)
    assert "needs 13.0" in str(system.problem)


@pytest.mark.parametrize(
    ("visible", "message"), [("", "CUDA_VISIBLE_DEVICES is empty"), ("7", "CUDA_VISIBLE_DEVICES is '7'")]
)
def test_hidden_gpus_have_another_message_than_no_gpus(tmp_path: Path, visible: str, message: str) -> None:
    cuda = FakeCuda(0)
    cuda.codes["cuDeviceGetCount"] = 100
    assert message in str(read_gpus(cuda.driver(), tmp_path, MACHINE, {"CUDA_VISIBLE_DEVICES": visible}).problem)
    assert read_gpus(cuda.driver(), tmp_path, MACHINE, {}).problem == "the NVIDIA driver finds no GPU"


def test_a_machine_without_a_driver_is_an_error() -> None:
    with pytest.raises(ProviderError, match=r"no NVIDIA driver \(libcuda"):
        load_driver(_no_library)


def _no_library(name: str) -> object:
    raise OSError(f"{name}: cannot open shared object file")


def test_the_error_of_a_driver_that_does_not_start_has_its_text() -> None:
    with pytest.raises(ProviderError, match="does not start: CUDA_ERROR_803, in words"):
        CudaDriver(FakeCuda(cuInit=803))


@pytest.mark.parametrize(("code", "kind"), [(2, DeviceMemoryError), (700, DeviceLostError), (801, ProviderError)])
def test_codes_become_the_matching_errors(code: int, kind: type[ProviderError]) -> None:
    cuda = FakeCuda(cuMemAlloc_v2=code)
    with pytest.raises(kind) as caught:
        DeviceMemory(cuda.driver(), 0, 100)
    assert type(caught.value) is kind
    assert cuda.pushed == 0


def test_memory_is_counted_and_released_even_by_a_lost_gpu() -> None:
    cuda = FakeCuda()
    driver = cuda.driver()
    before, total = driver.memory_info(0)
    memory = DeviceMemory(driver, 0, 1000)
    assert driver.memory_info(0) == (before - 1000, total)
    memory.close()
    assert driver.memory_info(0) == (before, total)
    lost = DeviceMemory(driver, 0, 1000)
    cuda.codes["cuMemFree_v2"] = 700
    lost.close()
    assert {700} <= cuda_driver.FATAL
