"""The inspection of a node, and the comparison of nodes."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import msgspec
import pytest

from fletcher.runtime import Artifact
from fletcher.runtime.errors import InputError
from fletcher.serve.cluster_ray.nodes import (
    NodeReport,
    Questions,
    inspect_node,
    pinned_digests,
    refuse_differences,
)

OWN = {"Python": "3.11.9", "Fletcher": "1.0", "ray": "2.60.0", "numpy": "2.4.6"}


def report(
    name: str = "a",
    digests: dict[str, str] | None = None,
    problems: tuple[str, ...] = (),
    versions: dict[str, str] | None = None,
) -> NodeReport:
    return NodeReport(name, {**OWN, **(versions or {})}, digests or {}, problems=problems)


def inspect(**asked: object) -> NodeReport:
    answer = inspect_node(msgspec.json.encode(msgspec.convert(asked, Questions)))
    return msgspec.json.decode(answer, type=NodeReport)


def test_equal_nodes_pass() -> None:
    refuse_differences(
        [report("a"), report("b", versions={"Python": "3.11.2"})], OWN
    )  # releases within 3.11 differ in nothing that is sent


@pytest.mark.parametrize(
    ("versions", "message"),
    [
        ({"ray": "2.59.0"}, "b has ray 2.59.0, and this machine 2.60.0"),
        ({"Python": "3.12.1"}, "b has Python 3.12.1, and this machine 3.11.9"),
        ({"Fletcher": "0.9"}, "b has Fletcher 0.9, and this machine 1.0"),
    ],
)
def test_another_version_on_a_node_is_named(versions: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        refuse_differences([report("a"), report("b", versions=versions)], OWN)


def test_a_package_that_is_missing_on_a_node_is_named() -> None:
    lacking = NodeReport("b", {name: version for name, version in OWN.items() if name != "numpy"})
    with pytest.raises(InputError, match=r"b has no numpy, and this machine has 2\.4\.6"):
        refuse_differences([lacking], OWN)


def test_different_artifacts_under_one_name_are_named() -> None:
    one, two = report("a", {"/m": "11"}), report("b", {"/m": "22"})
    with pytest.raises(InputError, match=r"different artifacts under /m: b has 22, a has 11|a has 11, b has 22"):
        refuse_differences([one, two], OWN)
    assert pinned_digests([one, report("b", {"/m": "11"})]) == {"/m": "11"}


def test_problems_name_the_node() -> None:
    with pytest.raises(InputError, match="b: port 9 is in use"):
        refuse_differences([report("a"), report("b", problems=("port 9 is in use",))], OWN)


def test_a_node_finds_artifacts_files_and_ports(tiny_artifact: Path, tmp_path: Path) -> None:
    digest = Artifact.open(tiny_artifact).digest
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = inspect(
            artifacts=[
                (str(tiny_artifact), None),
                (str(tmp_path / "none"), None),
                (f"file://{tmp_path}/nowhere", None),
                ("s3://no-such-bucket.invalid/x.json", None),
            ],
            files=[str(tmp_path / "keys.json")],
            ports=[port],
            folder=str(tmp_path / "haproxy"),
        )
    assert found.digests == {str(tiny_artifact): digest}
    assert len(found.problems) == 4, found.problems  # the alias is not followed here
    assert str(tmp_path / "none") in found.problems[0]
    assert f"{tmp_path}/nowhere" in found.problems[1]
    assert "keys.json cannot be read" in found.problems[2]
    assert f"port {port}" in found.problems[3]
    assert stat.S_IMODE((tmp_path / "haproxy").stat().st_mode) == 0o700


def test_another_digest_is_named(tiny_artifact: Path) -> None:
    found = inspect(artifacts=[(str(tiny_artifact), "0" * 64)])
    assert len(found.problems) == 1
    assert "0" * 64 in found.problems[0]
