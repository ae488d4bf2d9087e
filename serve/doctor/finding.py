"""`Finding`: what a check found, how severe it is, and what to do."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["Finding", "Severity", "advice", "error", "fine", "warning"]

#: `error`: the server does not start, or gives wrong or no answers; `warning`: production should not have it; `advice`: it
#: may be on purpose; `ok`: nothing is wrong.
Severity = Literal["ok", "advice", "warning", "error"]


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """Result of a check.

    Attributes:
        severity: severity.
        found: what was found.
        fix: what to do; empty if nothing is wrong.
        check: name of the check.
    """

    severity: Severity
    found: str
    fix: str = ""
    check: str = ""

    @property
    def wrong(self) -> bool:
        """Return whether the exit code of the command must tell of it."""
        return self.severity in ("warning", "error")


def fine(found: str) -> Finding:
    """Return a finding of something that is as it should be."""
    return Finding("ok", found)


def advice(found: str, fix: str) -> Finding:
    """Return a finding of something that may be on purpose."""
    return Finding("advice", found, fix)


def warning(found: str, fix: str) -> Finding:
    """Return a finding of something that production should not have."""
    return Finding("warning", found, fix)


def error(found: str, fix: str) -> Finding:
    """Return a finding of something with which the server does not start, or does not answer correctly."""
    return Finding("error", found, fix)
