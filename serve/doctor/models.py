"""Checks of models: artifacts, their canaries, providers and GPUs, tokenizers."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fletcher.runtime import Artifact
from fletcher.runtime.errors import FletcherError
from fletcher.runtime.providers.needs import missing
from fletcher.runtime.providers.selection import AUTO, all_providers
from fletcher.runtime.tokenizing.nanotoken import package_problem

from ..engine.backend import close_backend
from ..models.spec import ModelSpec
from .finding import Finding, advice, error, fine, warning
from .subject import Subject

__all__ = ["check_artifacts", "check_gpus", "check_providers", "check_tokenizer"]

#: Device of NVIDIA's driver: it exists where a GPU was passed to the machine or the container.
DEVICE: Final = "dev/nvidiactl"


def check_artifacts(subject: Subject) -> Iterator[Finding]:
    """Load every model as the server does: digests of its files, signature, canary."""
    if not subject.specs:
        yield error("there is no model to serve", "name a folder, or put [[models]] into the file of --config")
    for spec in subject.specs:
        try:
            yield from _check_artifact(subject, spec)
        except FletcherError as problem:
            yield error(str(problem), f"convert the checkpoint again, or take another artifact than {spec.path}")


def _check_artifact(subject: Subject, spec: ModelSpec) -> Iterator[Finding]:
    folder = Path(spec.path)
    manifest = Artifact.open(folder).manifest
    encoder = subject.load(spec)
    try:
        result = encoder.check_canary()
        info = encoder.info
    finally:
        close_backend(encoder)
    if not result.passed:
        yield error(f"{folder}: the canary does not pass: {result.reason}", "convert the checkpoint again")
    else:
        yield fine(
            f"{folder}: the files and the canary are right ({info.variant} on {info.provider}, {result.max_abs:.1e})"
        )
    if manifest.status == "self-made":
        yield warning(
            f"{folder}: its vectors were compared with no reference", f"fletcher-convert model verify {folder}"
        )
    if info.fallback is not None:
        yield warning(f"{folder}: {info.fallback}", "install what the requested provider needs, or request another one")
    loose = [path for path in (folder, *folder.iterdir()) if path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)]
    if loose:
        yield warning(f"other users may write {loose[0]}", f"chmod -R go-w {folder}, or mount it read-only")


def check_providers(subject: Subject) -> Iterator[Finding]:
    """Check that the providers that models ask for can be used."""
    asked = {spec.provider for spec in subject.specs} - {AUTO}
    problems = {each.name: missing(each, subject.machine) for each in all_providers()}
    for name in sorted(asked):
        if name not in problems:
            yield error(f"there is no provider {name!r}", f"use {AUTO} or one of {', '.join(problems)}")
        elif (problem := problems[name]) is not None:
            yield error(
                f"the provider {name} cannot be used: {problem}", "follow the message, or request another provider"
            )
        else:
            yield fine(f"the provider {name} can be used")
    if not asked:
        usable = [name for name, problem in problems.items() if problem is None]
        yield (
            fine(f"providers that can be used: {', '.join(usable)}")
            if usable
            else error(
                "no provider can be used", "pip install 'longbow-fletcher[cpu]', or another extra for this machine"
            )
        )


def check_gpus(subject: Subject) -> Iterator[Finding]:
    """Check the driver and the GPUs where there are any."""
    system = subject.gpus()
    if system.gpus:
        yield fine(
            f"{len(system.gpus)} GPUs, driver {system.driver or 'unknown'}, CUDA {'.'.join(map(str, system.cuda))}"
        )
    elif (subject.root / DEVICE).exists():
        yield error(
            f"the machine has an NVIDIA GPU that cannot be used: {system.problem}",
            "install driver 580 or newer; in a container use --gpus all (NVIDIA Container Toolkit) or ask for nvidia.com/gpu",
        )
    else:
        yield fine("no NVIDIA GPU")


def check_tokenizer(subject: Subject) -> Iterator[Finding]:
    """Check whether the fast tokenizer is installed."""
    problem = package_problem()
    if problem is not None:
        yield advice(
            f"the fast tokenizer is not used: {problem.reason}", "pip install 'longbow-fletcher[fast-tokenizer]'"
        )
    else:
        yield fine("the fast tokenizer is installed")
