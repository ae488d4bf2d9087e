"""Run the steps of a Dockerfile in plain folders with chroot, where there is no container engine. It needs root and Linux.

    python deploy/tools/replay.py deploy/docker/Dockerfile --base ROOT --output IMAGE [--arg EXTRA=nvidia] [--bind PATH]

ROOT is the file system of the base image, for example of `debootstrap --variant=minbase bookworm ROOT`; it is copied, not
changed. The result is the file system of the last stage, and its metadata (user, environment, entry point) in IMAGE.json.
Instructions that this script does not know are errors. A RUN has the network of this machine, and the paths of --bind, which
it cannot change. If a proxy has its own CA, bind /usr/local/share/ca-certificates: Debian's tools add it in the stage.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Instructions that only describe the image, and whose value is a JSON list or a text.
DESCRIPTIVE = ("CMD", "ENTRYPOINT", "EXPOSE", "HEALTHCHECK", "LABEL", "USER", "VOLUME", "WORKDIR")

#: Files of this machine that name servers: a RUN sees them in its stage.
NETWORK = ("/etc/resolv.conf", "/etc/hosts")


@dataclass(slots=True)
class Stage:
    """A stage of the build.

    Attributes:
        root: its file system.
        variables: its ARG and ENV variables.
        environment: its ENV variables.
        described: the other instructions, by name; the last one of a name counts.
    """

    root: Path
    variables: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    described: dict[str, Any] = field(default_factory=dict)


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Yield the instructions of a Dockerfile: name in capitals, and arguments without continuations and comments."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    for line in joined.splitlines():
        if line.strip():
            name, _, arguments = line.strip().partition(" ")
            yield name.upper(), arguments.strip()


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Return a text with `${NAME}` and `$NAME` replaced; unknown variables are empty, as for Docker."""
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda match: variables.get(match[1] or match[2], ""), text)


def ignored(context: Path) -> list[str]:
    """Return the names of the context that `.dockerignore` lets through: its lines that begin with `!`."""
    lines = (context / ".dockerignore").read_text().splitlines()
    return [line.removeprefix("!") for line in lines if line.startswith("!")]


class Replay:
    """A build."""

    def __init__(self, base: Path, folder: Path, context: Path, binds: Sequence[str]) -> None:
        """Begin a build.

        Args:
            base: file system of the base image.
            folder: folder of the stages.
            context: folder of the files that COPY takes.
            binds: paths of this machine that a RUN sees.
        """
        self._base, self._folder, self._context, self._binds = base, folder, context, binds
        self.stages: list[tuple[str, Stage]] = []

    def run(self, text: str, arguments: Mapping[str, str]) -> Stage:
        """Run all instructions and return the last stage.

        Args:
            text: the Dockerfile.
            arguments: values of ARG instructions.

        Raises:
            ValueError: an instruction is not known.
            subprocess.CalledProcessError: a RUN fails.
        """
        for name, value in instructions(text):
            sys.stdout.write(f"{name} {' '.join(value.split())}\n")
            sys.stdout.flush()
            if name == "FROM":
                self._begin(value)
            elif name == "ARG":
                if self.stages:
                    key, _, default = value.partition("=")
                    self._last.variables[key] = arguments.get(key, default)
            elif name == "ENV":
                pairs = dict(part.split("=", 1) for part in shlex.split(expand(value, self._last.variables)))
                self._last.environment |= pairs
                self._last.variables |= pairs
            elif name == "RUN":
                self._execute(value)
            elif name == "COPY":
                self._copy(value)
            elif name in DESCRIPTIVE:
                self._last.described[name] = json.loads(value) if value.startswith("[") else value
            else:
                raise ValueError(f"replay.py does not know the instruction {name}")
        return self._last

    @property
    def _last(self) -> Stage:
        return self.stages[-1][1]

    def _begin(self, value: str) -> None:
        name = value.split(" AS ")[1] if " AS " in value else str(len(self.stages))
        root = self._folder / name
        shutil.rmtree(root, ignore_errors=True)
        if value.partition(" ")[0] == "scratch":
            root.mkdir()
        else:
            subprocess.run(["cp", "-a", "--reflink=auto", str(self._base), str(root)], check=True)
        self.stages.append((name, Stage(root)))

    def _execute(self, command: str) -> None:
        root = self._last.root
        steps = ["set -e", f"mount -t proc proc {root}/proc", f"mount --rbind /dev {root}/dev"]
        for path in (*NETWORK, *self._binds):
            if Path(path).exists():
                target = shlex.quote(f"{root}{path}")
                make = (
                    f"mkdir -p {target}" if Path(path).is_dir() else f"mkdir -p $(dirname {target}) && touch {target}"
                )
                # Read-only: a package's script in the stage must not change files of this machine.
                steps += [make, f"mount --bind {shlex.quote(path)} {target}", f"mount -o remount,bind,ro {target}"]
        steps.append(f"exec chroot {shlex.quote(str(root))} /bin/sh -c {shlex.quote(command)}")
        environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
        environment |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        environment |= {"DEBIAN_FRONTEND": "noninteractive", **self._last.variables}
        private = ["unshare", "--mount", "--fork", "--pid", "/bin/sh", "-c", "\n".join(steps)]
        subprocess.run(private, check=True, env=environment)

    def _copy(self, value: str) -> None:
        words = value.split()
        source = self._context
        if words[0].startswith("--from="):
            source = dict(self.stages)[words.pop(0).removeprefix("--from=")].root
        *paths, target = words
        destination = self._last.root / target.lstrip("/")
        if paths == ["."]:
            names = ignored(self._context)
            for name in names:
                self._copy_one(source / name, destination / name)
            return
        for path in paths:
            self._copy_one(source / path.lstrip("/"), destination)

    def _copy_one(self, source: Path, destination: Path) -> None:
        if source.is_dir():
            destination.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-a", "--reflink=auto", f"{source}/.", str(destination)], check=True)
        else:
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, destination)


def size_of(root: Path) -> int:
    """Return the bytes of all files of a file system; a file with several names counts once."""
    sizes = {}
    for folder, _, names in os.walk(root):
        for name in names:
            status = (Path(folder) / name).lstat()
            sizes[status.st_ino] = status.st_size
    return sum(sizes.values())


def main() -> None:
    """Replay a Dockerfile."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dockerfile", type=Path)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--context", type=Path, default=Path.cwd())
    parser.add_argument("--arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--bind", action="append", default=[], metavar="PATH")
    options = parser.parse_args()
    folder = options.output.with_name(options.output.name + ".stages")
    folder.mkdir(parents=True, exist_ok=True)
    replay = Replay(options.base, folder, options.context.absolute(), options.bind)
    last = replay.run(options.dockerfile.read_text(), dict(each.split("=", 1) for each in options.arg))
    shutil.rmtree(options.output, ignore_errors=True)
    last.root.rename(options.output)
    shutil.rmtree(folder)
    size = size_of(options.output)
    description = {"size": size, "environment": last.environment, **last.described}
    options.output.with_name(options.output.name + ".json").write_text(json.dumps(description, indent=2) + "\n")
    sys.stdout.write(f"{options.output}: {size / 1e6:.0f} MB\n")


if __name__ == "__main__":
    main()
