"""First points of the comparison: vocabulary, token ids, and the tokens that ColBERT skips."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from fletcher.model_zoo.card import LateInteraction
from fletcher.model_zoo.sentence_transformers.heads import read_late_interaction
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.loading import open_tokenizer as open_artifact_tokenizer

from ..checkpoint.sentence_transformers import read_files
from ..texts import EDGES, SENTENCES
from ..verify.report import excerpt
from .results import PointResult
from .traced_model import TracedModel

__all__ = ["compare_skipped", "compare_tokenizers", "open_tokenizer"]


def open_tokenizer(artifact: Artifact) -> Tokenizer:
    """Return the artifact's tokenizer, without truncation.

    Raises:
        ArtifactError: the tokenizer file cannot be read.
    """
    open_artifact_tokenizer(artifact)  # the checks of a load
    tokenizer = Tokenizer.from_file(str(artifact.tokenizer_file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def compare_tokenizers(artifact: Artifact, traced: TracedModel, texts: Sequence[str]) -> Iterator[PointResult]:
    """Compare vocabulary and token ids with transformers' tokenizer.

    Args:
        artifact: the artifact.
        traced: the reference.
        texts: texts to compare besides the built-in ones.
    """
    ours = open_tokenizer(artifact).get_vocab(with_added_tokens=True)
    theirs = traced.tokenizer.get_vocab()
    different = sorted(token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token))
    note = ""
    if different:
        token = different[0]
        note = f"{len(different)} tokens differ: {token!r} is {ours.get(token)}, in the checkpoint {theirs.get(token)}"
    yield _result("vocabulary", len(ours), len(different), note)

    compared = [*EDGES, *SENTENCES, *texts]
    encodings = open_artifact_tokenizer(artifact).encode(compared)
    rows = np.split(encodings.ids, encodings.offsets[1:-1])
    wrong = [
        text
        for text, row, expected in zip(compared, rows, traced.tokenize(compared), strict=True)
        if row.tolist() != list(expected)
    ]
    note = f"first with other ids: {excerpt(wrong[0])!r}" if wrong else ""
    yield _result("token ids", len(compared), len(wrong), note)


def compare_skipped(artifact: Artifact, traced: TracedModel, folder: Path) -> Iterator[PointResult]:
    """Compare the tokens whose vectors ColBERT leaves out, of queries and of documents; other models give no result.

    Args:
        artifact: artifact, whose card has the tokens, and whose tokenizer has their ids.
        traced: reference, whose vocabulary has the expected ids.
        folder: checkpoint, whose files have the expected tokens.
    """
    late, card = artifact.manifest.card.late_interaction, artifact.manifest.card
    if late is None:
        return
    ours = _skipped_ids(late, open_artifact_tokenizer(artifact).token_id)
    published, _ = read_late_interaction(read_files(folder), card.max_tokens)
    theirs = _skipped_ids(published, traced.tokenizer.get_vocab().get)
    different = sorted(ours ^ theirs)
    note = ""
    if different:
        role, token = different[0]
        side = "the artifact" if different[0] in ours else "the checkpoint"
        note = f"{len(different)} differ: {side} alone skips the id {token} in a {role}"
    yield _result("skipped tokens", len(theirs), len(different), note)


def _skipped_ids(late: LateInteraction, id_of: Callable[[str], int | None]) -> set[tuple[str, int]]:
    """Return roles and ids of the skipped tokens that the vocabulary has."""
    ids = [token for name in late.skipped if (token := id_of(name)) is not None]
    return {(role, token) for role in late.skipped_in for token in ids}


def _result(what: str, count: int, num_different: int, note: str) -> PointResult:
    return PointResult(
        section="tokens",
        point=what,
        key=f"tokens/{what.replace(' ', '_')}",
        node="tokenizer.json",
        shape=(count,),
        max_abs=float(num_different),
        relative=num_different / max(count, 1),
        verdict="failed" if num_different else "passed",
        note=note,
    )
