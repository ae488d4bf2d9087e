"""Reservations of replicas: measured, given, or those of replicas that run."""

from __future__ import annotations

import pytest

from fletcher.serve.cluster_ray.deploy import version_of
from fletcher.serve.cluster_ray.measure import Measured
from fletcher.serve.cluster_ray.needs import need_of
from fletcher.serve.cluster_ray.options import Deployment
from fletcher.serve.cluster_ray.placement import Need
from fletcher.serve.cluster_ray.state import reason_of
from fletcher.serve.models.spec import ModelSpec
from fletcher.serve.server_options import ServerOptions

GIB = 2**30


@pytest.mark.parametrize(
    ("reserved", "memory"),
    [
        (None, 5 * GIB),  # 4 GiB and a quarter more
        ((0.0, 5 * GIB + 1000), 5 * GIB + 1000),  # a measurement that differs a little changes nothing
        ((0.0, 3 * GIB), 5 * GIB),  # the models need more now
        ((0.0, 20 * GIB), 5 * GIB),  # and far less
    ],
)
def test_a_reservation_that_fits_stays(reserved: tuple[float, int] | None, memory: int) -> None:
    made = need_of(Deployment(name="m", cpus=2.0), Measured(memory=4 * GIB), 0, reserved)
    assert made == Need(2.0, 0.0, memory)


def test_shares_of_a_gpu() -> None:
    measured = Measured(memory=4 * GIB, gpu_memory=30 * GIB)  # 34.5 GiB with 15 % more: two fit into 80 GiB
    auto = Deployment(name="m", gpus="auto")
    assert need_of(auto, measured, 80 * GIB).gpus == 0.5
    assert need_of(auto, measured, 80 * GIB, (0.5, 0)).gpus == 0.5
    assert need_of(auto, measured, 80 * GIB, (1.0, 0)).gpus == 0.5
    assert need_of(Deployment(name="m", gpus=0.25), measured, 80 * GIB).gpus == 0.25
    assert need_of(Deployment(name="m", memory="2GB"), measured, 0).memory == 2_000_000_000


def test_models_do_not_change_the_version_of_a_replica_and_options_do() -> None:
    one = Deployment(name="m", models=(ModelSpec(path="/a"),))
    need = Need(1.0)
    assert version_of(one, need) == version_of(one.replace(models=(ModelSpec(path="/b"),)), need)
    assert version_of(one, need) == version_of(one.replace(max_replicas=5), Need(1.0, memory=7))
    assert version_of(one, need) != version_of(one.replace(server=ServerOptions(max_items=5)), need)
    assert version_of(one, need) != version_of(one, Need(2.0))


def test_the_reason_of_a_failure_is_its_last_error() -> None:
    class Part:
        message = "Traceback\n  File x\nfletcher.runtime.errors.InputError: no such model\n"

    class State:
        message = "Deploying failed"
        deployments = {"m": Part()}  # noqa: RUF012

    assert reason_of(State()) == "fletcher.runtime.errors.InputError: no such model"
