"""Operations that move artifacts: `push`, `pull`, and the cache that the processes of a machine share.

The store is a folder beside, so that its calls fail, too: they take the place of a server that answers with errors.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from fletcher.model_zoo.progress import SILENT
from fletcher.runtime.artifact.folder import MANIFEST, Artifact
from fletcher.runtime.artifact.writing import write_manifest
from fletcher.runtime.errors import FletcherError
from fletcher.runtime.remote.node_cache import NodeCache
from fletcher.runtime.remote.source import Index, open_source, read_index
from fletcher.runtime.remote.transfer import pull, push
from fletcher.runtime.remote.url import ArtifactUrl, parse_url

from .operations import NewArtifact, Operation, with_license

__all__ = ["Fetch", "FetchAgain", "Pull", "Push", "Remember"]


def url_of(folder: Path) -> ArtifactUrl:
    return parse_url(f"file://{folder}/store/minilm-1")


class Fetch(Operation):
    """Download of an artifact into the cache."""

    synced = False  # what a power cut takes from a cache is downloaded again

    def prepare(self, folder: Path) -> None:
        shutil.copytree(self.source, folder / "store" / "minilm-1")

    def run(self, folder: Path) -> None:
        url = url_of(folder)
        source = open_source(url)
        index = read_index(source, url)
        with NodeCache(folder / "cache").fetch(source, index, SILENT).hold:
            pass

    def judge(self, folder: Path, *, succeeded: bool, durable: bool = True) -> None:
        key = self._key()
        found = NodeCache(folder / "cache").find(key)
        assert found is not None or not (succeeded and durable), "the artifact is gone"
        if found is not None:
            with found.hold:
                # Every load compares the bytes, and refuses an artifact for good if they differ.
                Artifact.open(found.folder).check_files()

    def _key(self) -> str:
        url = parse_url(f"file://{self.source}")
        return read_index(open_source(url), url).key

    def repeat(self, folder: Path) -> None:
        self.run(folder)
        self.judge(folder, succeeded=True)
        assert not [*(folder / "cache" / ".partial").iterdir()], "a part of a download is left"


class FetchAgain(Fetch):
    """Download that continues one that was cut in the middle of a file."""

    def prepare(self, folder: Path) -> None:
        super().prepare(folder)
        partial = folder / "cache" / ".partial" / self._key()
        partial.mkdir(parents=True)
        for number, file in enumerate(sorted(self.source.iterdir())):
            if file.name != MANIFEST and number % 2:
                (partial / file.name).write_bytes(file.read_bytes()[: file.stat().st_size // 2])


class Remember(Operation):
    """Note of the artifact that a URL had last."""

    URL = parse_url("s3://bucket/minilm-1")
    OLD, NEW = (Index(name.encode(), None, {}, name * 64, "minilm") for name in "ab")

    def prepare(self, folder: Path) -> None:
        NodeCache(folder / "cache").remember(self.URL, self.OLD)

    def run(self, folder: Path) -> None:
        NodeCache(folder / "cache").remember(self.URL, self.NEW)

    def judge(self, folder: Path, *, succeeded: bool, durable: bool = True) -> None:
        found = NodeCache(folder / "cache").recall(self.URL)
        assert found is not None, "neither the old note nor the new one is there"
        assert found.digest == self.NEW.digest or (found.digest == self.OLD.digest and not (succeeded and durable))

    def repeat(self, folder: Path) -> None:
        self.run(folder)
        self.judge(folder, succeeded=True)
        assert len([*(folder / "cache" / ".urls").iterdir()]) == 1, "a temporary file is left"


class Pull(NewArtifact):
    """Download of an artifact in the place of another one."""

    replaces = True

    def prepare(self, folder: Path) -> None:
        shutil.copytree(self.source, folder / "artifact")
        shutil.copytree(self.source, folder / "store" / "minilm-1")
        self.change(folder / "store" / "minilm-1")

    @staticmethod
    def change(artifact: Path) -> None:
        """Give an artifact another license."""
        write_manifest(artifact, with_license(artifact))

    def run(self, folder: Path) -> None:
        pull(str(url_of(folder)), folder / "artifact")

    def repeat(self, folder: Path) -> None:
        self.run(folder)
        assert sorted(each.name for each in folder.iterdir()) == ["artifact", "store"], list(folder.iterdir())
        self.judge(folder, succeeded=True)


class Push(Operation):
    """Upload of an artifact, of which readers must see all or nothing."""

    errors = (FletcherError, OSError)

    def prepare(self, folder: Path) -> None:
        shutil.copytree(self.source, folder / "artifact")
        (folder / "store").mkdir()

    def run(self, folder: Path) -> None:
        push(folder / "artifact", str(url_of(folder)))

    def judge(self, folder: Path, *, succeeded: bool, durable: bool = True) -> None:
        there = folder / "store" / "minilm-1"
        if (there / MANIFEST).exists():
            Artifact.open(there).check_files()
        else:
            assert not succeeded

    def repeat(self, folder: Path) -> None:
        self.run(folder)
        self.judge(folder, succeeded=True)
