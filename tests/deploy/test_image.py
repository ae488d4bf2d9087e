"""The image: its steps run in plain folders, its size is below the goal, and a server answers in it as in a container.

The test needs Linux, root and debootstrap. `FLETCHER_IMAGE_ROOT` names the result of an earlier replay.py, which is then not
built; `FLETCHER_REPLAY_BIND` names files that pip needs on this machine, such as a certificate, divided by colons.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from fletcher.runtime import Encoder
from fletcher.serve.access.keys_file import add_key

from .tooling import DEPLOY, ROOT, script, tool

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(platform.system() != "Linux" or os.geteuid() != 0, reason="chroot needs root on Linux"),
]

#: Largest size of the image for CPUs, unpacked, in bytes.
GOAL = 400_000_000


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file system of the image for CPUs."""
    if given := os.environ.get("FLETCHER_IMAGE_ROOT"):
        return Path(given)
    folder = tmp_path_factory.mktemp("image")
    base = folder / "base"
    bootstrap = tool("debootstrap", "Debian: debootstrap")
    command = [bootstrap, "--variant=minbase", "bookworm", str(base)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    binds = [f"--bind={path}" for path in os.environ.get("FLETCHER_REPLAY_BIND", "").split(":") if path]
    replay, dockerfile = DEPLOY / "tools" / "replay.py", DEPLOY / "docker" / "Dockerfile"
    arguments = [dockerfile, f"--base={base}", f"--output={folder / 'cpu'}", f"--context={ROOT}", *binds]
    subprocess.run([sys.executable, str(replay), *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)
    return folder / "cpu"


@pytest.fixture(params=[0, 2], ids=["one process", "fronts"])
def served(
    request: pytest.FixtureRequest, image: Path, tiny_artifact: Path, tmp_path: Path
) -> Iterator[tuple[str, str]]:
    """Start the image's command as a container engine does: other user, read-only root. Return its URL and a key."""
    described = json.loads(image.with_name(image.name + ".json").read_text())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    keys = tmp_path / "keys.json"
    key = add_key(keys, "test", "user")
    keys.chmod(0o444)
    arguments = [f"127.0.0.1:{port}" if each.endswith(":8080") else each for each in described["CMD"]]
    arguments = ["off" if each.endswith(":8815") else each for each in arguments]
    root = shlex.quote(str(image))
    server = " ".join(map(shlex.quote, described["ENTRYPOINT"] + arguments))
    steps = [
        "set -e",
        f"mount --bind {root} {root}",
        f"mount -t proc proc {root}/proc",
        f"mount -t tmpfs tmpfs {root}/tmp",
        f"mount -t tmpfs -o mode=0755,uid=10001,gid=10001 tmpfs {root}/var/cache/fletcher",
        f"mount -t tmpfs tmpfs {root}/run",
        f"mkdir -p {root}/run/secrets",
        f"cp {shlex.quote(str(keys))} {root}/run/secrets/keys.json",
        f"mount -t tmpfs tmpfs {root}/dev",
        *(
            f"touch {root}/dev/{name} && mount --bind /dev/{name} {root}/dev/{name}"
            for name in ("null", "urandom", "zero")
        ),
        f"mount --bind {shlex.quote(str(tiny_artifact))} {root}/model",
        f"mount -o remount,bind,ro {root}/model",
        f"mount -o remount,bind,ro {root}",
        f"exec chroot --userspec={described['USER']} {root} {server}",
    ]
    environment = described["environment"] | {
        "FLETCHER_RUN_FRONTS": str(request.param),
        "PATH": "/opt/fletcher/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    }
    command = ["unshare", "--mount", "/bin/sh", "-c", "\n".join(steps)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 120
        while True:
            assert process.poll() is None and time.monotonic() < end, (tmp_path / "log").read_text()
            try:
                if httpx.get(f"{url}/ready").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.2)
        yield url, key
    finally:
        process.terminate()
        code = process.wait(60)
    assert code == 0, (tmp_path / "log").read_text()


def test_the_image_is_small_and_has_no_shell_compiler_or_installer(image: Path) -> None:
    size = script("tools/replay.py").size_of(image)
    assert size <= GOAL
    names = {path.name for folder in ("usr/bin", "usr/sbin", "opt/fletcher/bin") for path in (image / folder).iterdir()}
    assert not names & {
        "sh",
        "bash",
        "dash",
        "gcc",
        "cc",
        "ld",
        "apt",
        "apt-get",
        "dpkg",
        "pip",
        "pip3",
        "fletcher-convert",
    }
    assert "fletcher-serve" in names
    programs = [
        path for path in image.rglob("*") if path.is_file() and not path.is_symlink() and path.stat().st_mode & 0o6000
    ]
    assert not programs  # nothing gives another user's rights


def test_a_server_answers_in_the_image(served: tuple[str, str], tiny_artifact: Path) -> None:
    url, key = served
    texts = ["hello world", "another text"]
    with Encoder.load(tiny_artifact, provider="mlas") as encoder:
        expected = encoder.embed(texts).vectors
    headers = {"authorization": f"Bearer {key}"}
    model = httpx.get(f"{url}/v1/models", headers=headers).json()["data"][0]["id"]
    body = {"input": texts, "model": model}
    assert httpx.post(f"{url}/v1/embeddings", json=body).status_code == 401
    answer = httpx.post(f"{url}/v1/embeddings", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    found = np.array([each["embedding"] for each in answer.json()["data"]], np.float32)
    np.testing.assert_allclose(found, expected, atol=1e-5)
