"""`CHECKS`: the checks of `fletcher-serve doctor`, in the order of its report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from . import access, certificates, machine, models, storage, tokens
from .finding import Finding
from .subject import Subject

__all__ = ["CHECKS", "examine"]

Check = Callable[[Subject], Iterator[Finding]]

#: Checks by name. A check is a function that yields findings; a new one is a function and a line here.
CHECKS: Final[Mapping[str, Check]] = MappingProxyType(
    {
        "processors": machine.check_processors,
        "memory": machine.check_memory,
        "open files": machine.check_files,
        "connections": machine.check_connections,
        "clock": machine.check_clock,
        "user": machine.check_user,
        "packages": machine.check_packages,
        "addresses": access.check_addresses,
        "transport": access.check_transport,
        "keys": access.check_keys,
        "certificates": certificates.check_certificates,
        "signed tokens": tokens.check_tokens,
        "stop": access.check_leaving,
        "cache": storage.check_cache,
        "temporary files": storage.check_temporary,
        "GPUs": models.check_gpus,
        "providers": models.check_providers,
        "tokenizer": models.check_tokenizer,
        "artifacts": models.check_artifacts,
    }
)


def examine(subject: Subject) -> Iterator[Finding]:
    """Yield the findings of all checks, with their names."""
    for name, check in CHECKS.items():
        for finding in check(subject):
            yield msgspec.structs.replace(finding, check=name)
