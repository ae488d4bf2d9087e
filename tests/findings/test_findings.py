"""The table of findings: each has tests that exist, and the attacks on running servers fail now."""

from __future__ import annotations

import ast
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from .attacks import ATTACKS, attack

ROOT = Path(__file__).parents[2]
FINDINGS = tomllib.loads(Path(__file__).with_name("findings.toml").read_text())["finding"]

#: The reviewed commit. A shallow clone does not have it.
REVIEWED = "8906eb9"

#: Findings of the review.
CRITICAL_TO_MEDIUM = {
    *("C1", "C2"),
    *(f"H{number}" for number in range(1, 7)),
    *(f"M{number}" for number in range(1, 13)),
}

#: Files whose imports 8906eb9 has. They were copied into it and run: the headers' test fails by its assertions, the lock's
#: one at its import, because extras are missing, and the signals' one because its fixture and `--fronts` are missing.
RUN_THERE = {
    "tests/serve/http/test_security_headers.py",
    "tests/serve/commands/test_stopping.py",
    "tests/test_lock.py",
}


def imported(file: Path) -> Iterator[str]:
    """Yield the modules of Fletcher that a test imports, and those of the tests beside it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            if node.level == 0 and node.module.startswith("fletcher."):
                yield node.module.removeprefix("fletcher.").replace(".", "/")
            elif node.level:
                folder = file.parents[node.level - 1].relative_to(ROOT)
                yield f"{folder}/{node.module.replace('.', '/')}"


def test_every_finding_of_the_review_is_in_the_table() -> None:
    assert {finding["id"].split()[0] for finding in FINDINGS if ":" not in finding["id"]} == CRITICAL_TO_MEDIUM
    names = [finding["id"] for finding in FINDINGS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("finding", FINDINGS, ids=lambda finding: finding["id"])
def test_its_tests_exist(finding: dict[str, object]) -> None:
    assert finding["tests"] and finding["about"]
    for test in finding["tests"]:  # type: ignore[attr-defined]
        path, _, name = test.partition("::")
        functions = {
            node.name for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, ast.FunctionDef)
        }
        assert name in functions, test
    assert ("attack" in finding) == ("old" in finding)
    assert finding.get("attack", "no_host") in ATTACKS


def test_every_attack_is_in_the_table() -> None:
    assert {finding["attack"] for finding in FINDINGS if "attack" in finding} == ATTACKS.keys()


def test_the_tests_cannot_be_imported_by_the_reviewed_commit() -> None:
    """Each needs a module that was not there. A test without such a module must be run on that commit."""
    listed = subprocess.run(
        ["git", "ls-tree", "-r", "--name-only", REVIEWED], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip(f"this clone does not have {REVIEWED}")
    there = set(listed.stdout.splitlines())
    known = {file.removesuffix(".py").removesuffix("/__init__") for file in there}
    files = {test.partition("::")[0] for finding in FINDINGS for test in finding["tests"]}
    importable = {file for file in files if set(imported(ROOT / file)) <= known}
    assert importable == RUN_THERE


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ATTACKS)
def test_the_attack_fails(name: str) -> None:
    found = attack(name, ROOT)
    assert not found.succeeded, found.seen
