"""Size of an installation: the site-packages folder of an environment, and its largest packages.

    python -m venv /tmp/server && /tmp/server/bin/pip install --constraint requirements.lock '.[cpu,http]'
    python benchmarks/install/size.py /tmp/server/bin/python [--json]

pip and setuptools are left out: they come with the environment. Sizes are those on the disk, compiled files included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path

LEFT_OUT = ("pip", "setuptools", "_distutils_hack", "pkg_resources")


def main() -> None:
    """Print the total and the ten largest packages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("python", help="interpreter of the environment")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    script = "import sysconfig; print(sysconfig.get_path('purelib'))"
    folder = Path(
        subprocess.run([options.python, "-c", script], check=True, capture_output=True, text=True).stdout.strip()
    )
    sizes = {
        path.name: size_of(path)
        for path in folder.iterdir()
        if not path.name.split("-")[0].split(".")[0].startswith(LEFT_OUT)
    }
    largest = dict(sorted(sizes.items(), key=lambda item: -item[1])[:10])
    report = {
        "total_mb": round(sum(sizes.values()) / 1e6),
        "largest_mb": {k: round(v / 1e6) for k, v in largest.items()},
    }
    if options.json:
        print(json.dumps(report))
        return
    print(f"{report['total_mb']} MB")
    for name, size in largest.items():
        print(f"{size / 1e6:6.0f} MB  {name}")


def size_of(path: Path) -> int:
    """Return the bytes that a file or a folder takes on the disk."""
    if path.is_dir():
        return sum(size_of(child) for child in path.iterdir() if not child.is_symlink())
    return path.stat().st_blocks * 512


if __name__ == "__main__":
    main()
