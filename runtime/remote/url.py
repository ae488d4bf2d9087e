"""`ArtifactUrl`: the place of an artifact or of an alias outside this machine's folders. It fetches nothing.

s3://BUCKET/PATH   gs://BUCKET/PATH   az://CONTAINER/PATH   hf://ORG/NAME[@REVISION][/PATH]   file:///PATH
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from fletcher.model_zoo.locator import HubSource

from ..errors import InputError

__all__ = ["SCHEMES", "ArtifactUrl", "is_url", "parse_url"]

#: Schemes, and the words for the first part of a URL of each.
SCHEMES: Final = {"s3": "bucket", "gs": "bucket", "az": "container", "hf": "repository", "file": ""}

#: Ending of the name of an alias: a small JSON object that names an artifact.
ALIAS_SUFFIX: Final = ".json"

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://")
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}", re.ASCII)
#: Names in a path, as object stores, file systems and Fletcher's own caches all accept them.
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9 ._+=@-]{0,254}", re.ASCII)
_HUB = re.compile(
    r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w.+-]+))?(?:/(?P<path>.+))?", re.ASCII
)


@dataclass(frozen=True, slots=True)
class ArtifactUrl:
    """Place of an artifact, of a folder of artifacts, or of an alias.

    Attributes:
        scheme: a key of `SCHEMES`.
        root: bucket, container or hub repository (`ORG/NAME`); empty for `file`.
        parts: names of the path in it.
        revision: commit, branch or tag of a hub repository; None is its main branch.
    """

    scheme: str
    root: str
    parts: tuple[str, ...]
    revision: str | None = None

    @property
    def path(self) -> str:
        """Path in the bucket, without slashes at its ends."""
        return "/".join(self.parts)

    @property
    def is_alias(self) -> bool:
        """True for the URL of an alias."""
        return bool(self.parts) and self.parts[-1].endswith(ALIAS_SUFFIX)

    @property
    def parent(self) -> ArtifactUrl:
        """The folder that contains this one."""
        return replace(self, parts=self.parts[:-1])

    def child(self, name: str) -> ArtifactUrl:
        """Return the URL of a path below this one.

        Raises:
            InputError: the path has a part that no URL of an artifact has, such as `..`.
        """
        return replace(self, parts=(*self.parts, *_parts(name, f"{name[:200]!a}")))

    def is_below(self, other: ArtifactUrl) -> bool:
        """Return whether this is a path below another URL, or that URL."""
        same = (self.scheme, self.root, self.revision) == (other.scheme, other.root, other.revision)
        return same and self.parts[: len(other.parts)] == other.parts

    @property
    def hub(self) -> HubSource:
        """The hub's repository of a URL with the scheme `hf`."""
        return HubSource(self.root, self.revision)

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        start = f"{self.scheme}://{self.root}{revision}"
        return "/".join((start, *self.parts))


def is_url(text: str | Path) -> bool:
    """Return whether a text has the form of a URL, not that of a folder."""
    return isinstance(text, str) and _URL.match(text) is not None


def parse_url(text: str) -> ArtifactUrl:
    """Parse a URL.

    Raises:
        InputError: its scheme is unknown, or it has parts that no artifact's URL has. The message leaves out a user and a
            query, because they may be secrets.
    """
    match = _URL.match(text)
    scheme = match["scheme"].lower() if match else ""
    if match is None or scheme not in SCHEMES:
        raise InputError(
            f"{text[:40].split('@')[0]!a} is not the URL of an artifact: use {', '.join(SCHEMES)}, or a folder"
        )
    rest = text[match.end() :]
    if "?" in rest or "#" in rest or (scheme != "hf" and "@" in rest.partition("/")[0]):
        raise InputError(
            f"the {scheme} URL has a user, a query or a fragment: write {scheme}://{SCHEMES[scheme].upper()}/PATH alone. "
            "Keys come from the environment, never from a URL"
        )
    if scheme == "hf":
        found = _HUB.fullmatch(rest.rstrip("/"))
        if found is None:
            raise InputError(f"{text!a} is not a repository of the hub: write hf://ORG/NAME[@REVISION][/PATH]")
        return ArtifactUrl(scheme, found["repository"], _parts(found["path"] or "", f"{text!a}"), found["revision"])
    root, slash, path = rest.partition("/")
    if scheme == "file":
        if root or not slash:
            raise InputError(f"{text!a} is not a file URL: write file:///PATH, with three slashes")
    elif not _HOST.fullmatch(root):
        raise InputError(f"{text!a} names no {SCHEMES[scheme]}: write {scheme}://{SCHEMES[scheme].upper()}/PATH")
    return ArtifactUrl(scheme, root, _parts(path, f"{text!a}"))


def _parts(path: str, shown: str) -> tuple[str, ...]:
    parts = tuple(path.strip("/").split("/")) if path.strip("/") else ()
    for part in parts:
        if not _PART.fullmatch(part):
            raise InputError(f"{shown} has the part {part[:100]!a}: use letters, digits and . _ + = @ - in names")
    return parts
