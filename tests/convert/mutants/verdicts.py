"""Verdict on a mutant: the artifact's vectors are the reference's, or Fletcher refuses it by name."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from fletcher.runtime.errors import FletcherError

from .artifacts import compute_vectors, export_folder
from .checkpoints.bases import BASES
from .generation.edits import Mutant, apply, write_folder
from .reference import ReferenceRefusesError, Vectors, compute_reference

__all__ = ["DEFECTS", "TOLERANCE", "Outcome", "Verdict", "judge"]

Verdict = Literal["equal", "refused", "both refuse", "WRONG", "SILENT", "CRASH", "VAGUE"]

#: Verdicts that a test does not accept: other vectors than the reference's, vectors where the reference gives none, an error
#: outside Fletcher's tree, and a refusal that names neither the file nor the key.
DEFECTS: tuple[Verdict, ...] = ("WRONG", "SILENT", "CRASH", "VAGUE")

#: Name of a file that checkpoints have.
_FILE = re.compile(r"\b[\w.]+\.(json|txt|safetensors|metadata)\b")

#: Largest difference of an element, for vectors whose elements are at most 1; larger vectors are scaled.
TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Outcome:
    """`Outcome`: result of a mutant.

    Attributes:
        mutant: the mutant.
        verdict: the verdict.
        reason: message of the refusal or of the error, or the largest difference.
    """

    mutant: Mutant
    verdict: Verdict
    reason: str

    def __str__(self) -> str:
        return f"{self.verdict}: {self.mutant}: {self.reason}"


def judge(mutant: Mutant, files: Mapping[str, bytes], scratch: Path, *, ask_reference: bool = True) -> Outcome:
    """Convert a mutant and compare it with the reference.

    Args:
        mutant: the mutant.
        files: files of its base.
        scratch: an empty folder; the function empties it at the end.
        ask_reference: whether the reference also loads folders that Fletcher refuses. It decides between `refused` and
            `both refuse`.
    """
    base, folder, artifact = BASES[mutant.base], scratch / "model", scratch / "artifact"
    write_folder(apply(files, mutant.edits), folder)
    try:
        try:
            export_folder(folder, base, artifact)
            vectors = compute_vectors(folder, base, artifact)
        except FletcherError as error:
            message = str(error).replace(str(scratch), "").replace("/model/", "").replace("/model", "FOLDER")
            if not _names_cause(message, mutant):
                return Outcome(mutant, "VAGUE", f"{type(error).__name__}: {message}")
            if ask_reference and isinstance(_reference(mutant, folder), str):
                return Outcome(mutant, "both refuse", message)
            return Outcome(mutant, "refused", message)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - a panic in tokenizers is not an Exception
            return Outcome(mutant, "CRASH", f"{type(error).__name__}: {error}")
        expected = _reference(mutant, folder)
        if isinstance(expected, str):
            return Outcome(mutant, "SILENT", expected)
        difference = _difference(expected, vectors)
        return Outcome(mutant, "WRONG" if difference else "equal", difference)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(artifact, ignore_errors=True)


def _names_cause(message: str, mutant: Mutant) -> bool:
    """Return whether a refusal names a file of a checkpoint, or a name or value that the mutant changes.

    Of two files that contradict each other, a message may name the one that was not edited.
    """
    plain = message.replace("_", " ")
    return bool(_FILE.search(message)) or any(name.replace("_", " ") in plain for name in mutant.names)


def _reference(mutant: Mutant, folder: Path) -> Vectors | str:
    """Return the reference's vectors, or its error."""
    try:
        return compute_reference(folder, BASES[mutant.base])
    except ReferenceRefusesError as error:
        return str(error)


def _difference(expected: Vectors, vectors: Vectors) -> str:
    """Return a description of the largest difference, or an empty text if there is none beyond the tolerance."""
    worst, place = 0.0, ""
    for kind, rows in expected.items():
        if kind not in vectors:
            return f"the artifact has no input type {kind}"
        for index, (theirs, ours) in enumerate(zip(rows, vectors[kind], strict=True)):
            if ours is None:
                continue  # a text without a token: Fletcher refuses it by name
            if theirs is None:
                return f"{kind}, text {index}: a vector where the reference fails"
            if theirs.shape != ours.shape:
                return f"{kind}, text {index}: shape {ours.shape}, not {theirs.shape}"
            scale = max(1.0, float(np.abs(theirs).max(initial=0)))
            difference = float(np.abs(theirs - ours).max(initial=0)) / scale
            if not difference <= worst:
                worst, place = difference, f"{kind}, text {index}: {difference:.3g}"
    return "" if worst <= TOLERANCE else place
