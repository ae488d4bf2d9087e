"""Texts that versions of transformers read differently: excluded only if the version explains the difference."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tokenizers import Tokenizer

from fletcher.convert.export.export import export
from fletcher.convert.reference.load import load_witness
from fletcher.convert.reference.witness import Witness
from fletcher.convert.verify import verify as module
from fletcher.convert.verify.case import Case, features_of
from fletcher.convert.verify.outputs import TokenRow
from fletcher.convert.verify.verify import verify_with
from fletcher.convert.verify.versions import VersionGap, find_gap
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.artifact.manifest import Manifest

from ..tiny import save_embedder

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning"
)  # from torch and its users


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_embedder(tmp_path_factory.mktemp("versions") / "tiny")
    export(str(folder), folder.with_name("artifact"))
    return folder.with_name("artifact")


@pytest.fixture(scope="module")
def witness(artifact: Path) -> Witness:
    return load_witness(artifact.with_name("tiny"), Artifact.open(artifact).manifest.card)


def following(version: str | None) -> Manifest:
    return cast(Manifest, SimpleNamespace(tokenizer_like=version))


def gap_of(witness: Witness) -> VersionGap:
    gap = find_gap(following("transformers 4"), witness)
    assert gap is not None
    return gap


def test_a_gap_exists_only_between_two_versions(witness: Witness) -> None:
    assert find_gap(following(None), witness) is None and find_gap(following("transformers 5"), witness) is None
    older = dataclasses.replace(witness, tools={"transformers": "4.57.1"})
    assert find_gap(following("transformers 4"), older) is None
    assert gap_of(witness).follows == "transformers 4"


def test_a_difference_is_explained_by_the_kind_of_text_and_the_ids_of_the_file(
    witness: Witness,
) -> None:
    gap = gap_of(witness)
    tokenizer = Tokenizer.from_file(str(witness.folder / "tokenizer.json"))
    tokenizer.no_truncation()
    for text, explained in (("the\x85bread", True), (" the ", True), ("the bread", False), ("The bread", False)):
        row = TokenRow(tuple(tokenizer.encode(text).ids))
        case = Case(text, "raw", features=features_of(text))
        assert gap.explains(case, row) is explained
        assert not gap.explains(case, TokenRow((*row.ids, 7)))
        assert not gap.explains(case, TokenRow(refused="it has no token"))


def test_excluded_texts_are_not_checked(artifact: Path, witness: Witness, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Witness.answer

    def otherwise(self: Witness, text: str, *args: Any, **options: Any) -> Any:
        """Replace U+0085 as another version does."""
        return answer(self, text.replace("\x85", "the"), *args, **options)

    monkeypatch.setattr(Witness, "answer", otherwise)
    assert verify_with(artifact, witness, name="another version").verdict == "failed"
    monkeypatch.setattr(module, "find_gap", lambda manifest, witness: gap_of(witness))
    report = verify_with(artifact, witness, name="another version")
    assert report.verdict == "passed"
    assert report.not_checked == ("texts that versions 4 and 5 of transformers read differently",)
    assert "the artifact follows transformers 4" in report.settings[-1].note


def test_blanks_are_removed_before_the_tokenizer_if_the_artifact_requires_it(witness: Witness) -> None:
    stripping = dataclasses.replace(witness, strips=True)
    for kind in ("raw", "query", "document", "clustering"):
        assert stripping.tokenize("  the bread ", kind).ids == witness.tokenize("the bread", kind).ids
