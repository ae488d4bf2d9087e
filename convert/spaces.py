"""Comparison of two spaces, component by component: `fletcher-convert model diff`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from fletcher.model_zoo.decode import decode_json
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.errors import ArtifactError
from fletcher.runtime.loading import open_tokenizer
from fletcher.runtime.space.space import Difference, Space, compare_spaces, space_of

__all__ = ["SpaceDiff", "diff_spaces", "read_space"]

#: Reasons why two spaces that differ in a component may not be mixed, by component.
MEANINGS = {
    "weights": "other values of the checkpoint's tensors: another training, or another model",
    "graph": "another computation: layers, norms, activations, positions or modules",
    "tokenizer": "other token ids for the same text",
    "precision": "another quantization, whose vectors are further from float32 than fp16's or bf16's",
    "output": "another kind of output",
    "dimension": "another length of the vectors",
    "normalize": "vectors of length 1 against vectors of other lengths",
    "max_tokens": "longer texts are cut at another place",
    "cut": "longer texts are cut at the other end",
    "prompts": "other text before the same input",
    "pooling": "another way from token vectors to one vector",
    "strips_texts": "blanks around a text are removed, or kept",
    "layer_norm_before_truncation": "shorter vectors are cut before or after a layer norm",
    "activation": "another function from logits to scores",
    "late_interaction": "other lengths, filler tokens or skipped tokens of queries and documents",
}


@dataclass(frozen=True, slots=True)
class SpaceDiff:
    """Comparison of two spaces.

    Attributes:
        first: identifier of the first space.
        second: identifier of the second space.
        differences: components in which they differ; none if the identifiers are equal.
        note: addition for artifacts that lack digests of their content; empty if both have them.
    """

    first: str
    second: str
    differences: tuple[Difference, ...]
    note: str = ""

    @property
    def equal(self) -> bool:
        """Return whether vectors of the two can be compared."""
        return self.first == self.second


class _Saved(msgspec.Struct, frozen=True):
    """Saved answer of `GET /v1/space`."""

    space: str
    parts: Space


def read_space(path: Path, variant: str | None = None) -> Space:
    """Return the space of an artifact, or of a saved answer of `GET /v1/space`.

    Args:
        path: folder of an artifact, or a JSON file.
        variant: name of the artifact's variant. Default: its first one.

    Raises:
        ArtifactError: the folder is not an artifact or lacks the variant, or the file is not an answer of `/v1/space`.
    """
    if path.is_file():
        try:
            saved = decode_json(path.read_bytes(), _Saved)
        except (msgspec.DecodeError, OSError) as error:
            raise ArtifactError(f"{path} is neither an artifact nor a saved answer of /v1/space: {error}") from error
        if saved.parts.id != saved.space:
            raise ArtifactError(
                f"{path} says that its parts have the identifier {saved.space}, and they have {saved.parts.id}: it was "
                "changed"
            )
        return saved.parts
    artifact = Artifact.open(path)
    return space_of(artifact, artifact.variant(variant), open_tokenizer(artifact).side)


def diff_spaces(first: Space, second: Space) -> SpaceDiff:
    """Return the components in which two spaces differ."""
    digests = [digest for space in (first, second) for digest in (space.weights, space.graph, space.tokenizer)]
    note = ""
    if any(digest.startswith("file ") for digest in digests) and first != second:
        note = (
            "An artifact was written before Fletcher recorded digests of its content, so its files stand for it, and another "
            "export of the same checkpoint differs. Export it again to compare the content"
        )
    return SpaceDiff(first.id, second.id, compare_spaces(first, second), note)
