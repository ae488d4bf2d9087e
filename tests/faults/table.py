"""`OPERATIONS`: the operations of the tests, by name."""

from __future__ import annotations

from typing import Final

from . import operations, transfers, writes
from .operations import Operation

__all__ = ["OPERATIONS"]

OPERATIONS: Final[dict[str, type[Operation]]] = {
    "add-key": operations.AddKey,
    "first-key": operations.FirstKey,
    "remove-key": operations.RemoveKey,
    "new-artifact": operations.NewArtifact,
    "replace-artifact": operations.ReplaceArtifact,
    "check-artifact": operations.CheckArtifact,
    "journal": operations.KeepJournal,
    "load": operations.LoadModel,
    "export": operations.Export,
    "fetch": transfers.Fetch,
    "fetch-again": transfers.FetchAgain,
    "pull": transfers.Pull,
    "push": transfers.Push,
    "remember": transfers.Remember,
    "audit": writes.WriteAudit,
    "calibrate": writes.Calibrate,
    "new-file": writes.NewFile,
    "new-folder": writes.NewFolder,
}
