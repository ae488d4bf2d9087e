"""Load archives of artifacts into a folder, and check their sha256: the init container of the chart runs it.

    python fetch.py ARTIFACTS.json FOLDER

ARTIFACTS.json is a list of {"name", "url", "sha256"}; an archive is a tar file, compressed or not, of the artifact's files.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tarfile
import tempfile
import urllib.request
from pathlib import Path, PurePosixPath

#: Seconds in which a server must answer, and bytes that are read at once.
TIMEOUT, BLOCK = 60, 1 << 20


def fetch(name: str, url: str, sha256: str, folder: Path) -> None:
    """Load one archive and unpack it to `folder/name`, which appears when it is complete.

    Raises:
        OSError: the archive cannot be loaded.
        SystemExit: it is another archive than the expected one, or it has no artifact.
    """
    if (folder / name).exists():
        return
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{name}.") as place:
        archive = Path(place, "archive")
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, archive.open("wb") as file:
            while block := answer.read(BLOCK):
                digest.update(block)
                file.write(block)
        if digest.hexdigest() != sha256:
            raise SystemExit(f"{url} has sha256 {digest.hexdigest()}, and {sha256} is expected")
        unpack(archive, Path(place, "files"))
        manifests = sorted(Path(place, "files").rglob("fletcher.json"))
        if len(manifests) != 1:
            raise SystemExit(f"{url} has {len(manifests)} artifacts (fletcher.json), and one is expected")
        shutil.move(manifests[0].parent, folder / name)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack the files of an archive. Links, devices and names that lead out of the folder are refused.

    Python 3.11.2 of Debian has no filter for archives.

    Raises:
        SystemExit: the archive has something else than files and folders below it.
    """
    with tarfile.open(archive) as tar:
        for member in tar:
            name = PurePosixPath(member.name)
            if name.is_absolute() or ".." in name.parts or not (member.isfile() or member.isdir()):
                raise SystemExit(f"the archive has {member.name!r}, which is not a plain file or folder below it")
            if (content := tar.extractfile(member)) is not None:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                with content, (folder / name).open("wb") as file:
                    shutil.copyfileobj(content, file, BLOCK)


def main() -> None:
    """Load all archives."""
    entries, folder = Path(sys.argv[1]), Path(sys.argv[2])
    for entry in json.loads(entries.read_text()):
        fetch(entry["name"], entry["url"], entry["sha256"], folder)
        sys.stdout.write(f"{entry['name']} is complete\n")


if __name__ == "__main__":
    main()
