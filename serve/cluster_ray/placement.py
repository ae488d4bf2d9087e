"""Placement of replicas and engines: what they need, and how many fit on nodes. The module knows neither Ray nor models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fletcher.runtime.errors import InputError

__all__ = ["Need", "Room", "fitting", "gpu_share", "refuse_if_none_fits"]

#: Part of a GPU's memory beyond the measured one that a replica gets: batches of other shapes need a little more.
GPU_MARGIN: Final = 0.15

#: Part of the resident memory beyond the measured one that a replica gets.
MEMORY_MARGIN: Final = 0.25


@dataclass(frozen=True, slots=True)
class Need:
    """Cores, GPUs and memory that one replica or engine needs.

    Attributes:
        cpus: cores.
        gpus: share of a GPU below 1, or a number of GPUs.
        memory: resident memory in bytes; 0 if it is not known.
        gpu_memory: memory of one GPU in bytes; 0 if it is not known or no GPU is used.
    """

    cpus: float
    gpus: float = 0.0
    memory: int = 0
    gpu_memory: int = 0


@dataclass(frozen=True, slots=True)
class Room:
    """Cores, GPUs and memory of a node.

    Attributes:
        name: name of the node, for messages.
        cpus: cores that Ray may use.
        gpus: GPUs that Ray may use.
        memory: memory that Ray may use, in bytes.
        gpu_memory: memory of its smallest GPU in bytes; 0 without GPUs.
    """

    name: str
    cpus: float
    gpus: float = 0.0
    memory: int = 0
    gpu_memory: int = 0


def gpu_share(measured: int, total: int, name: str) -> float:
    """Return the share of a GPU that holds models: one part of as many equal parts as fit.

    Args:
        measured: bytes that the models needed on a GPU, with a full batch.
        total: bytes of the GPU.
        name: name of the deployment, for the message.

    Raises:
        InputError: a GPU is too small.
    """
    wanted = measured * (1 + GPU_MARGIN)
    if wanted > total:
        raise InputError(
            f"the models of {name!r} need {measured / 2**30:.1f} GiB of GPU memory, and a GPU has {total / 2**30:.1f} GiB: "
            "divide the models among several deployments"
        )
    parts = int(total // wanted)
    return 1.0 if parts == 1 else int(1e4 / parts) / 1e4  # Ray counts resources in steps of 0.0001


def with_margin(memory: int) -> int:
    """Return the memory to reserve for a process that was measured, in bytes."""
    return int(memory * (1 + MEMORY_MARGIN))


def fitting(need: Need, room: Room) -> int:
    """Return how many replicas or engines an empty node holds."""
    most = [int(room.cpus / need.cpus + 1e-9)]
    if need.memory:
        most.append(room.memory // need.memory)
    if need.gpus:
        whole = int(room.gpus + 1e-9)
        most.append(whole // int(need.gpus) if need.gpus >= 1 else whole * int(1 / need.gpus + 1e-9))
        if need.gpu_memory and need.gpu_memory > room.gpu_memory:
            most.append(0)
    return max(min(most), 0)


def refuse_if_none_fits(what: str, need: Need, rooms: Sequence[Room], count: int = 1) -> int:
    """Return how many replicas or engines the nodes hold together.

    Args:
        what: name of the deployment or the job, for the message.
        need: what one needs.
        rooms: the nodes.
        count: how many are needed at least.

    Raises:
        InputError: fewer fit. The message names what each node lacks.
    """
    held = sum(fitting(need, room) for room in rooms)
    if held >= max(count, 1):
        return held
    lacks = "; ".join(
        f"{room.name} has {_words(Need(room.cpus, room.gpus, room.memory, room.gpu_memory))}" for room in rooms
    )
    wanted = f"{count} replicas of {what}" if held else what
    raise InputError(
        f"{wanted} need{'' if held else 's'} {_words(need)}{' each' if held else ''}, and {_fits(held)}: {lacks}"
    )


def _fits(held: int) -> str:
    return f"the cluster holds {held}" if held else "no node has so much"


def _words(need: Need) -> str:
    parts = [f"{need.cpus:g} cores"]
    if need.gpus:
        memory = f" of {need.gpu_memory / 2**30:.1f} GiB" if need.gpu_memory else ""
        parts.append(f"{need.gpus:g} GPUs{memory}")
    if need.memory:
        parts.append(f"{need.memory / 2**30:.2f} GiB of memory")
    return ", ".join(parts)
