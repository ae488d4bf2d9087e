"""Report of `fletcher-serve devices`: the machine, its providers, and the measurements of an artifact on each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from fletcher.model_zoo.card import Accuracy
from fletcher.runtime import Artifact
from fletcher.runtime.commandline.reporter import Table
from fletcher.runtime.loading import open_tokenizer
from fletcher.runtime.machine.gpus import this_gpus
from fletcher.runtime.machine.machine import Machine, this_machine
from fletcher.runtime.providers.needs import missing
from fletcher.runtime.providers.selection import AUTO, all_providers, choose_variant
from fletcher.runtime.tokenizing.nanotoken import PACKAGE, fast_version, package_problem
from fletcher.runtime.tuning.choice import Choice, choose
from fletcher.runtime.tuning.history import forget, measuring_key, remember
from fletcher.runtime.tuning.measurement import Measurement
from fletcher.runtime.tuning.settle import measure

__all__ = ["Devices", "GpuState", "ProviderState", "describe_machine", "lines", "measure_artifact", "table"]

#: Instruction sets that decide which kernels run.
INSTRUCTIONS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx_vnni",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "bf16",
    "i8mm",
    "sve",
)


class ProviderState(msgspec.Struct, frozen=True):
    """State of a provider on this machine.

    Attributes:
        name: name of the provider, as in `--provider`.
        ready: whether the provider can be used.
        problem: the reason why it cannot be used, or None.
    """

    name: str
    ready: bool
    problem: str | None


class GpuState(msgspec.Struct, frozen=True):
    """An NVIDIA GPU.

    Attributes:
        device: name of the GPU in metrics.
        name: product name.
        memory: total memory in bytes.
        capability: compute capability.
    """

    device: str
    name: str
    memory: int
    capability: str


class Devices(msgspec.Struct, frozen=True, kw_only=True):
    """Description of a machine, and the measurements of an artifact on it.

    Attributes:
        processor: name of the processor.
        processors: number of processors that this process may use.
        numa_nodes: these processors by NUMA node.
        instructions: instruction sets of the processor that change the speed.
        memory: bytes that this process may use.
        gpus: the NVIDIA GPUs.
        gpu_problem: the reason why there is no GPU, as the driver reports it if there is a driver.
        driver: version of NVIDIA's driver.
        providers: the providers in the order of preference.
        tokenizer: the tokenizer that is used, or that would be used.
        tokenizer_problem: the reason why the fast tokenizer is not used, or None.
        model: name of the artifact's model, if an artifact was measured.
        variant: the graph that was measured.
        measurements: one for each layout.
        choice: the layout that `auto` takes.
    """

    processor: str
    processors: int
    numa_nodes: list[list[int]]
    instructions: list[str]
    memory: int
    gpus: list[GpuState]
    gpu_problem: str | None
    driver: str
    providers: list[ProviderState]
    tokenizer: str
    tokenizer_problem: str | None = None
    model: str | None = None
    variant: str | None = None
    measurements: Sequence[Measurement] = ()
    choice: Choice | None = None


def describe_machine() -> Devices:
    """Describe this machine without loading a model."""
    problem = package_problem()
    if problem is not None:
        return _describe(this_machine(), "tokenizers", problem.reason)
    return _describe(this_machine(), f"{PACKAGE} {fast_version()} for tokenizers for which it is exact", None)


def measure_artifact(
    directory: Path,
    *,
    variant: str | None,
    seconds: float,
    min_cosine: float | None,
    providers: Sequence[str] | None = None,
) -> Devices:
    """Measure an artifact on every provider, and store the measurements for the next load.

    Args:
        directory: the artifact's folder.
        variant: name of the graph; None is the first one that runs on this machine.
        seconds: time for all measurements.
        min_cosine: smallest cosine with the reference that `auto` may accept; None is the variant's own tolerance.
        providers: names of the providers to measure; None measures all. Measurements of some providers are not stored,
            because `auto` needs those of all.

    Raises:
        InputError: a provider is unknown.
        ArtifactError: the folder is not an artifact, or it is damaged.
        ProviderError: no provider runs the graph on this machine.
    """
    artifact = Artifact.open(directory)
    artifact.check_files()
    chosen = choose_variant(artifact, variant, AUTO)
    machine = this_machine()
    tokenizer = open_tokenizer(artifact)
    measurements = measure(artifact, chosen, seconds=seconds, providers=providers or None)
    if not providers:
        forget(measuring_key(), artifact.digest, chosen.name)
        remember(measuring_key(), artifact.digest, chosen.name, measurements)
    tolerance = chosen.tolerance if min_cosine is None else Accuracy(min_cosine=min_cosine)
    choice = choose(measurements, min_cosine=tolerance.min_cosine, max_abs=tolerance.max_abs)
    devices = _describe(machine, tokenizer.implementation, tokenizer.fast_problem)
    return msgspec.structs.replace(
        devices, model=artifact.manifest.card.name, variant=chosen.name, measurements=measurements, choice=choice
    )


def lines(devices: Devices) -> Iterator[str]:
    """Yield the lines that describe the machine and its providers."""
    nodes = (
        "" if len(devices.numa_nodes) == 1 else f", NUMA nodes of {', '.join(str(len(n)) for n in devices.numa_nodes)}"
    )
    yield f"{devices.processor}: {devices.processors} processors{nodes}, {devices.memory / 2**30:.1f} GiB"
    yield f"instructions  {' '.join(devices.instructions) or 'none'}"
    for gpu in devices.gpus:
        driver = f"driver {devices.driver}" if devices.driver else "driver unknown"
        yield f"{gpu.device:<13} {gpu.name}, {gpu.memory / 2**30:.0f} GiB, compute capability {gpu.capability}, {driver}"
    for state in devices.providers:
        yield f"{state.name:<13} {'ready' if state.problem is None else state.problem}"
    yield f"{'tokenizer':<13} {devices.tokenizer}"
    if devices.tokenizer_problem is not None:
        yield f"{'':<13} {devices.tokenizer_problem}"


def table(devices: Devices) -> Table:
    """Return the measurements as a table."""
    speeds = [measurement.tokens_per_s or 0.0 for measurement in devices.measurements]
    rows = []
    for measurement, speed in zip(devices.measurements, speeds, strict=True):
        layout = measurement.layout
        rows.append(
            (
                layout.provider,
                f"{layout.workers} x {layout.threads}",
                layout.token_budget,
                "" if measurement.latency_ms is None else f"{measurement.latency_ms:.2f}",
                "" if measurement.tokens_per_s is None else f"{speed:,.0f}",
                "" if measurement.tokens_per_s is None else f"{speed / max(speeds):.2f}",
                "" if measurement.min_cosine is None else f"{measurement.min_cosine:.6f}",
                "" if measurement.max_abs is None else f"{measurement.max_abs:.0e}",
                measurement.problem or ("auto" if devices.choice and layout == devices.choice.layout else ""),
            )
        )
    columns = ("provider", "workers", "budget", "ms", "tokens/s", "relative", "cosine", "max abs", "")
    return Table(columns, rows, title=f"\n{devices.model}, {devices.variant}")


def _describe(machine: Machine, tokenizer: str, tokenizer_problem: str | None) -> Devices:
    problems = {provider.name: missing(provider, machine) for provider in all_providers()}
    system = this_gpus()
    gpus = [GpuState(gpu.device_name, gpu.name, gpu.memory, ".".join(map(str, gpu.capability))) for gpu in system.gpus]
    return Devices(
        gpus=gpus,
        gpu_problem=system.problem,
        driver=system.driver,
        processor=machine.processor,
        processors=len(machine.processors),
        numa_nodes=[list(node) for node in machine.numa_nodes],
        instructions=[name for name in INSTRUCTIONS if name in machine.instructions],
        memory=machine.memory,
        providers=[ProviderState(name, problem is None, problem) for name, problem in problems.items()],
        tokenizer=tokenizer,
        tokenizer_problem=tokenizer_problem,
    )
