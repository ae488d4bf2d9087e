"""Operations that write other files: the audit log, calibrations, and the files and folders of reports and checkpoints."""

from __future__ import annotations

import shutil
from pathlib import Path

from fletcher.runtime.artifact.calibration import Calibration
from fletcher.runtime.artifact.durable import new_file, new_folder
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.artifact.writing import calibrate
from fletcher.runtime.errors import FletcherError
from fletcher.serve.audit.log_file import LogFile
from fletcher.serve.audit.verify import files_of, verify

from .operations import Operation

__all__ = ["Calibrate", "NewFile", "NewFolder", "WriteAudit"]

CALIBRATION = Calibration(
    measure="cosine",
    method="logistic",
    input_type="document",
    slope=3.0,
    intercept=-1.0,
    pairs=100,
    positive=0.5,
    error=0.01,
    variant="cpu-fp32",
)


class WriteAudit(Operation):
    """Lines of an audit log over several files, which continue what is there."""

    errors = (FletcherError, OSError)  # `Trail` logs the system's error and tries again
    synced = False  # a second after a line, as the document says

    def prepare(self, folder: Path) -> None:
        self._write(folder, "old", 3)
        self.done.clear()

    def run(self, folder: Path) -> None:
        self.done.clear()
        self._write(folder, "new", 7)

    def _write(self, folder: Path, name: str, count: int) -> None:
        file = LogFile(folder / "audit.jsonl", 700)
        try:
            for number in range(count):
                file.append([b'"event":"%s","texts":%d' % (name.encode(), number)] * 2)
                self.mark(f"{name} {number}")
        finally:
            file.close()

    def judge(self, folder: Path, *, succeeded: bool, durable: bool = True) -> None:
        path = folder / "audit.jsonl"
        # A server that starts again continues the log, whatever the crash left.
        file = LogFile(path, 1 << 20)
        file.append([b'"event":"after"'])
        file.close()
        findings = verify(files_of(path))
        assert not findings.faults, findings.faults
        lines = b"".join(each.read_bytes() for each in files_of(path))
        assert lines.count(b'"event":"old"') == 6 or not durable
        for mark in self.done:
            name, number = mark.split()
            wanted = b'"event":"%s","texts":%s' % (name.encode(), number.encode())
            assert lines.count(wanted) == 2 or not durable, mark

    def repeat(self, folder: Path) -> None:
        self._write(folder, "later", 2)
        self.judge(folder, succeeded=True)


class Calibrate(Operation):
    """A calibration, which is written into an artifact's manifest."""

    errors = (FletcherError, OSError)

    def prepare(self, folder: Path) -> None:
        shutil.copytree(self.source, folder / "artifact")

    def run(self, folder: Path) -> None:
        calibrate(folder / "artifact", CALIBRATION, digest=Artifact.open(self.source).digest)

    def judge(self, folder: Path, *, succeeded: bool, durable: bool = True) -> None:
        artifact = Artifact.open(folder / "artifact")
        artifact.check_files()
        found = artifact.manifest.calibration
        assert found == CALIBRATION or (found is None and not (succeeded and durable)), found

    def repeat(self, folder: Path) -> None:
        calibrate(folder / "artifact", CALIBRATION, digest=Artifact.open(folder / "artifact").digest)
        self.judge(folder, succeeded=True)
        assert {each.name for each in (folder / "artifact").iterdir()} == {each.name for each in self.source.iterdir()}


class NewFile(Operation):
    """A file of a report, of mined texts or of a sweep, in the place of an older one."""

    errors = (OSError,)
    OLD, NEW = b"old\n" * 3000, b"newer\n" * 4000

    def prepare(self, folder: Path) -> None:
        (folder / "report.json").write_bytes(self.OLD)

    def run(self, folder: Path) -> None:
        with new_file(folder / "report.json") as stream:
            for start in range(0, len(self.NEW), 6000):
                stream.write(self.NEW[start : start + 6000])

    def judge(self, folder: Path, *, succeeded: bool, durable: bool = True) -> None:
        content = (folder / "report.json").read_bytes()
        assert content == self.NEW or (content == self.OLD and not (succeeded and durable)), len(content)

    def repeat(self, folder: Path) -> None:
        self.run(folder)
        self.judge(folder, succeeded=True)
        assert [each.name for each in folder.iterdir()] == ["report.json"]


class NewFolder(Operation):
    """A folder with a checkpoint, in the place of an older one."""

    errors = (OSError,)

    def prepare(self, folder: Path) -> None:
        self._fill(folder / "checkpoint", b"old")

    @staticmethod
    def _fill(folder: Path, content: bytes) -> None:
        for file in ("modules.json", "1_Dense/model.safetensors"):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(content * 1000)

    def run(self, folder: Path) -> None:
        with new_folder(folder / "checkpoint") as temporary:
            self._fill(temporary, b"new")

    def judge(self, folder: Path, *, succeeded: bool, durable: bool = True) -> None:
        files = [file for file in (folder / "checkpoint").rglob("*") if file.is_file()]
        contents = {file.read_bytes() for file in files}
        assert len(files) == 2 and contents in ({b"new" * 1000}, {b"old" * 1000}), contents
        assert contents == {b"new" * 1000} or not (succeeded and durable)

    def repeat(self, folder: Path) -> None:
        self.run(folder)
        self.judge(folder, succeeded=True)
