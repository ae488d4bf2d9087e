"""Open a variant on all GPUs that this process may use, as one `Fleet`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from ..artifact.folder import Artifact
from ..artifact.graph.read import check_graphs
from ..artifact.manifest import Variant
from ..artifact.pinned import PinnedFiles
from ..canary import Canary, read_canary, require_session
from ..machine import gpus
from ..machine.gpus import SLOTS, Gpu, memory_info
from ..session.counters import DeviceMetric
from ..session.session import Session
from .fleet import Fleet
from .member import FleetDevice

__all__ = ["GpuOpener", "open_gpus"]


@dataclass(frozen=True, slots=True)
class GpuOpener:
    """`GpuOpener`: function that opens a variant on one GPU, and the provider's metrics of this GPU.

    Attributes:
        open: opens a session. It is called again after the GPU failed.
        metrics: metrics of the GPU in addition to those of the fleet.
    """

    open: Callable[[], Session]
    metrics: Sequence[DeviceMetric] = ()


def open_gpus(artifact: Artifact, variant: Variant, opener_of: Callable[[Gpu], GpuOpener]) -> Fleet:
    """Open a variant on all GPUs.

    Args:
        artifact: artifact that contains the graph.
        variant: variant of the graph.
        opener_of: returns the opener of a GPU.

    Returns:
        The fleet. Its `fallback` is that of the first session that has a fallback.

    Raises:
        ProviderError: the graph does not run on one of the GPUs.
        Exception: any other error of the openers.
    """
    devices: list[FleetDevice] = []
    try:
        for gpu in gpus.this_gpus().gpus:
            devices.append(_device(artifact, variant, gpu, opener_of(gpu)))
    except BaseException:
        for device in devices:
            device.session.close()
        raise
    check = partial(_check, artifact, variant, read_canary(artifact.canary_file))
    fallbacks = (device.session.fallback for device in devices)
    return Fleet(devices, check=check, fallback=next((reason for reason in fallbacks if reason), None))


def _device(artifact: Artifact, variant: Variant, gpu: Gpu, opener: GpuOpener) -> FleetDevice:
    free_before = memory_info(gpu.index)[0]
    return FleetDevice(
        gpu.device_name,
        opener.open(),
        SLOTS,
        gpu.processors,
        open=partial(_reopen, artifact, variant, opener),
        memory=lambda: float(max(free_before - memory_info(gpu.index)[0], 0)),
        metrics=opener.metrics,
    )


def _reopen(artifact: Artifact, variant: Variant, opener: GpuOpener) -> Session:
    """Open another session of the files that were loaded. The folder may have been exchanged since then.

    Raises:
        ArtifactError: the files are missing, or were changed while they were opened.
        ChecksumError: the files are others.
        Exception: any error of the opener.
    """
    files = {name: artifact.manifest.files[name] for name in (variant.file, variant.weights)}
    with PinnedFiles.open(artifact.path, files) as pinned:
        check_graphs(artifact, variant)
        session = opener.open()
        try:
            pinned.require_unchanged()
        except BaseException:
            session.close()
            raise
    return session


def _check(artifact: Artifact, variant: Variant, canary: Canary, session: Session) -> None:
    require_session(session, canary, artifact.manifest.card.output, variant.tolerance)
