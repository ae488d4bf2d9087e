"""What replicas need and how many fit. Expected values are worked out by hand."""

from __future__ import annotations

import pytest

from fletcher.runtime.errors import InputError
from fletcher.serve.cluster_ray.placement import Need, Room, fitting, gpu_share, refuse_if_none_fits, with_margin

GIB = 2**30


@pytest.mark.parametrize(
    ("need", "room", "count"),
    [
        (Need(2), Room("a", 8), 4),
        (Need(0.5), Room("a", 2), 4),
        (Need(3), Room("a", 8), 2),
        (Need(1, memory=3 * GIB), Room("a", 8, memory=10 * GIB), 3),
        (Need(1, gpus=0.25), Room("a", 16, gpus=2), 8),
        (Need(1, gpus=0.3333), Room("a", 16, gpus=2), 6),
        (Need(1, gpus=2), Room("a", 16, gpus=3), 1),
        (Need(1, gpus=1), Room("a", 16), 0),
        (Need(4), Room("a", 2), 0),
        (Need(1, gpus=1, gpu_memory=40 * GIB), Room("a", 16, gpus=1, gpu_memory=24 * GIB), 0),
        (Need(1, gpus=1, gpu_memory=20 * GIB), Room("a", 16, gpus=1, gpu_memory=24 * GIB), 1),
    ],
)
def test_how_many_fit(need: Need, room: Room, count: int) -> None:
    assert fitting(need, room) == count


@pytest.mark.parametrize(
    ("measured", "share"),
    [
        (10 * GIB, 0.1666),  # with 15 % 11.5 of 80 GiB: 6.96, so six; 1 / 6 rounded down to four digits
        (30 * GIB, 0.5),  # 34.5: two
        (60 * GIB, 1.0),  # 69: one
    ],
)
def test_a_share_is_one_of_equal_parts(measured: int, share: float) -> None:
    assert gpu_share(measured, 80 * GIB, "m") == pytest.approx(share, abs=1e-9)


def test_a_gpu_that_is_too_small_is_named() -> None:
    with pytest.raises(InputError, match=r"'m' need 75.0 GiB of GPU memory, and a GPU has 80.0 GiB"):
        gpu_share(75 * GIB, 80 * GIB, "m")


def test_a_model_that_fits_no_node_is_named() -> None:
    rooms = [Room("small", 2, memory=4 * GIB), Room("tiny", 1, memory=2 * GIB)]
    with pytest.raises(
        InputError, match=r"the deployment 'm' needs 2 cores, 6.00 GiB of memory, and no node has so much: small"
    ):
        refuse_if_none_fits("the deployment 'm'", Need(2, memory=6 * GIB), rooms)
    with pytest.raises(
        InputError, match=r"3 replicas of the deployment 'm' need 1 cores each, and the cluster holds 2"
    ):
        refuse_if_none_fits("the deployment 'm'", Need(1), [Room("small", 2)], 3)
    assert refuse_if_none_fits("m", Need(1), rooms, 3) == 3


def test_memory_is_reserved_with_a_margin() -> None:
    assert with_margin(1000) == 1250
