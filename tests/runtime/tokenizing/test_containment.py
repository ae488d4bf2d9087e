"""Tokenizer files that take too much time or memory, panic or abort are refused, in a process of their own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fletcher import Encoder
from fletcher.convert.export.export import export
from fletcher.runtime.artifact.folder import TOKENIZER, Artifact
from fletcher.runtime.artifact.writing import describe_files, write_manifest
from fletcher.runtime.errors import ArtifactError, CheckpointError, InputError
from fletcher.runtime.tokenizing import containment
from fletcher.runtime.tokenizing.containment import check_contained
from fletcher.runtime.tokenizing.containment_child import _repeats_repetition
from fletcher.runtime.tokenizing.tokenizer import Tokenizer

Content = dict[str, Any]


def split(pattern: str) -> Callable[[Content], object]:
    rule = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return lambda content: content.update(pre_tokenizer=rule)


def replace(content: Content, inserted: str) -> None:
    content["normalizer"] = {"type": "Replace", "pattern": {"String": "a"}, "content": inserted}


def cascade(content: Content) -> None:
    """Double the letter a 28 times: 256 million letters for each one."""
    rule = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    content["normalizer"] = {"type": "Sequence", "normalizers": [rule] * 28}


#: Attacks of the security review, and others of their kinds.
ATTACKS: dict[str, tuple[Callable[[Content], object], str]] = {
    "an id of 2,000,000,000": (
        lambda content: content["model"]["vocab"].update(planted=2_000_000_000),
        "a token has the id 2000000000",
    ),
    "an added id": (
        lambda content: content["added_tokens"][0].update(id=4_000_000_000),
        "a token has the id 4000000000",
    ),
    "exponential": (split("(x+x+)+y"), "repeats a repetition, which takes exponential time"),
    "alternatives": (split("(?:a|ab|b)*c"), "repeats a repetition"),
    "polynomial": (split("x*x*x*x*x*x*y"), "fails on a text .*retry-limit"),
    "a million characters": (lambda content: replace(content, "x" * 1_000_000), "inserts 1000000 characters"),
    "doublings": (cascade, "its library ends the process|takes more than|it cannot be used|panics"),
    "a long token": (
        lambda content: content["added_tokens"][0].update(content="x" * 5000),
        "more than 1000 characters",
    ),
    "deep": (lambda content: content.update(normalizer=json.loads("[" * 400 + "]" * 400)), "it cannot be used"),
    "no model": (lambda content: content.pop("model"), "it cannot be used"),
}


def write(path: Path, source: Path, change: Callable[[Content], object]) -> Path:
    content = json.loads(source.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_refused_with_its_reason(
    tmp_path: Path, tiny_artifact: Path, real_containment: Path, monkeypatch: pytest.MonkeyPatch, attack: str
) -> None:
    monkeypatch.setattr(containment, "MEMORY", 1 << 30)  # the doublings fill it
    change, message = ATTACKS[attack]
    file = write(tmp_path / TOKENIZER, tiny_artifact / TOKENIZER, change)
    with pytest.raises(ArtifactError, match=message):
        check_contained(file)
    assert not list(real_containment.rglob("*"))


def test_a_load_refuses_it(own_artifact: Path, real_containment: Path) -> None:
    write(own_artifact / TOKENIZER, own_artifact / TOKENIZER, ATTACKS["an id of 2,000,000,000"][0])
    manifest = Artifact.open(own_artifact).manifest
    write_manifest(own_artifact, msgspec.structs.replace(manifest, files=describe_files(own_artifact)))
    with pytest.raises(ArtifactError, match="is not a tokenizer that can be used safely"):
        Encoder.load(own_artifact, provider="mlas")


def test_a_conversion_refuses_it(tmp_path: Path, tiny_checkpoint: Path, real_containment: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    for file in tiny_checkpoint.iterdir():
        if file.is_file():
            (checkpoint / file.name).write_bytes(file.read_bytes())
        else:
            (checkpoint / file.name).symlink_to(file)
    write(checkpoint / TOKENIZER, tiny_checkpoint / TOKENIZER, ATTACKS["exponential"][0])
    with pytest.raises(CheckpointError, match="repeats a repetition"):
        export(str(checkpoint), tmp_path / "artifact")


def test_a_tokenizer_is_tried_once(
    tiny_artifact: Path, real_containment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_contained(tiny_artifact / TOKENIZER)
    assert len(list((real_containment / "tokenizers").iterdir())) == 1
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("tried again"))
    check_contained(tiny_artifact / TOKENIZER)


def test_the_child_gets_no_secrets(
    tiny_artifact: Path, real_containment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLETCHER_LONGBOW_TOKEN", "secret")
    run: Callable[..., Any] = subprocess.run
    seen: list[dict[str, str]] = []

    def record(*args: Any, env: dict[str, str], **kwargs: Any) -> Any:
        seen.append(env)
        return run(*args, env=env, **kwargs)

    monkeypatch.setattr(subprocess, "run", record)
    check_contained(tiny_artifact / TOKENIZER)
    assert len(seen) == 1 and "secret" not in seen[0].values()
    assert not {name for name in seen[0] if name.startswith("FLETCHER")}


def test_a_cache_folder_that_cannot_be_written_is_no_error(
    tiny_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("FLETCHER_CACHE", str(tmp_path / "cache"))
    check_contained(tiny_artifact / TOKENIZER)


def test_a_child_that_hangs_is_killed(tmp_path: Path, real_containment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containment, "PATIENCE", 1)
    monkeypatch.setattr(containment, "PROGRAM", "import time; time.sleep(60)")
    (tmp_path / TOKENIZER).write_text("{}")
    with pytest.raises(ArtifactError, match="it takes more than 1 s"):
        check_contained(tmp_path / TOKENIZER)


def test_a_child_is_stopped_at_its_limits(
    tmp_path: Path, real_containment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / TOKENIZER).write_text("{}")
    limits = containment.PROGRAM.rpartition("from fletcher")[0]
    monkeypatch.setattr(containment, "SECONDS", 1)
    monkeypatch.setattr(containment, "PROGRAM", limits + "while True: pass")
    with pytest.raises(ArtifactError, match="it takes more than 1 s of processor time"):
        check_contained(tmp_path / TOKENIZER)
    monkeypatch.setattr(containment, "PROGRAM", limits + "bytearray(8 << 30)")
    with pytest.raises(ArtifactError, match="MemoryError"):
        check_contained(tmp_path / TOKENIZER)


def test_a_panic_while_texts_are_tokenized_is_an_input_error(tmp_path: Path, tiny_artifact: Path) -> None:
    file = write(tmp_path / TOKENIZER, tiny_artifact / TOKENIZER, split("(x+x+)+y"))
    tokenizer = Tokenizer(file, 100)
    text = "x" * 40 + " y"
    for call in (
        lambda: tokenizer.encode([text]),
        lambda: tokenizer.encode([text, text]),
        lambda: tokenizer.encode_pairs([text], ["a"]),
        lambda: tokenizer.describe([text], special=True),
        lambda: tokenizer.plain_ids(text),
    ):
        with pytest.raises(InputError, match="the tokenizer's library fails on a text"):
            call()
    assert tokenizer.encode(["a"]).num_tokens  # it goes on


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("(x+x+)+y", True),
        ("(?:a|ab)*", True),
        ("((a+)b)+", True),
        ("(a*){2,}", True),
        ("(a+)?", False),
        ("[(a+)]+", False),
        (r"\(a+\)+", False),
        ("(?:ab)+", False),
        # GPT-2's and cl100k's expressions, as their authors published them
        (r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", False),
        (
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
            r"|\s+(?!\S)|\s+",
            False,
        ),
    ],
)
def test_repeated_repetitions_are_found(pattern: str, found: bool) -> None:
    assert _repeats_repetition(pattern) == found


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot be read"):
        check_contained(tmp_path / "missing.json")
