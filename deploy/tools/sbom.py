"""Write the bill of materials of an image as CycloneDX 1.6: Fletcher, the Python packages and Debian's packages.

    python deploy/tools/sbom.py ROOT [--output FILE]

ROOT is the image's file system: a folder of replay.py, or what `docker export` unpacks. No code of it runs, so the image may
be one of another processor.
"""

from __future__ import annotations

import argparse
import json
import re
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from email.parser import HeaderParser
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path
from typing import Any
from urllib.parse import quote

#: The distribution that the image is made for.
FLETCHER = "longbow-fletcher"

#: Largest length of a text that names a license; longer ones are whole licenses.
LICENSE_NAME = 100


def python_packages(root: Path) -> Iterator[dict[str, Any]]:
    """Yield the components of the Python packages of an image."""
    for folder in sorted(root.glob("opt/fletcher/lib/python3*/site-packages/*.dist-info")):
        package: Distribution = PathDistribution(folder)
        name, version = package.metadata["Name"], package.version
        normal = re.sub(r"[-_.]+", "-", name).lower()
        component = _component(normal, version, f"pkg:pypi/{quote(normal)}@{quote(version)}")
        text = package.metadata.get("License-Expression") or package.metadata.get("License") or ""
        if text and len(text) <= LICENSE_NAME and "\n" not in text:
            key = "expression" if package.metadata.get("License-Expression") else "license"
            component["licenses"] = [{key: text} if key == "expression" else {key: {"name": text}}]
        yield component


def debian_packages(root: Path) -> Iterator[dict[str, Any]]:
    """Yield the components of Debian's packages of an image (deploy/docker/rootfs.sh)."""
    for file in sorted(root.glob("var/lib/dpkg/status.d/*")):
        fields = HeaderParser().parsestr(file.read_text(encoding="utf-8"))
        name, version = fields["Package"], fields["Version"]
        purl = f"pkg:deb/debian/{quote(name)}@{quote(version)}?arch={fields['Architecture']}&distro=bookworm"
        yield _component(name, version, purl)


def _component(name: str, version: str, purl: str) -> dict[str, Any]:
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def bill(root: Path) -> dict[str, Any]:
    """Return the bill of materials of an image.

    Raises:
        SystemExit: the folder does not have Fletcher.
    """
    packages = [*python_packages(root), *debian_packages(root)]
    main = next((each for each in packages if each["name"] == FLETCHER), None)
    if main is None:
        raise SystemExit(f"{root} is not the file system of an image of Fletcher: it has no {FLETCHER}")
    others = [each for each in packages if each is not main]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid4()}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
            "component": main | {"type": "application"},
        },
        "components": others,
        "dependencies": [{"ref": main["bom-ref"], "dependsOn": sorted(each["bom-ref"] for each in others)}],
    }


def main() -> None:
    """Write the bill of materials."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--output", type=Path, default=Path("/dev/stdout"))
    options = parser.parse_args()
    options.output.write_text(json.dumps(bill(options.root), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
