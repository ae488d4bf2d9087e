"""Speed of `push` and `pull` beside obstore's own transfer of the same files, which neither hashes nor syncs them.

    python benchmarks/remote/transfer.py s3://models/benchmark --artifact minilm [--size 512MiB] [--rounds 5]

The environment has the settings of the server, as for `fletcher-convert model push`. Each round sends and gets new random
bytes both ways, in turn; the medians count. `push_ratio` and `pull_ratio` should be at least 0.8.
"""

from __future__ import annotations

import argparse
import json
import secrets
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import obstore

from fletcher.runtime import Artifact
from fletcher.runtime.artifact.writing import describe_files, write_manifest
from fletcher.runtime.options.sizes import parse_size
from fletcher.runtime.remote import store
from fletcher.runtime.remote.transfer import pull, push
from fletcher.runtime.remote.url import parse_url

#: Files that obstore transfers at the same time, and bytes that its own get hands over at once.
FILES = 4
CHUNK_BYTES = 8 << 20


def main() -> None:
    """Print the medians of each kind of transfer, in MB/s, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="URL below which objects are written")
    parser.add_argument(
        "--artifact", type=Path, required=True, help="artifact to which a file of random bytes is added"
    )
    parser.add_argument("--size", default="512MiB", help="size of that file")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    speeds: dict[str, list[float]] = {"push": [], "put": [], "pull": [], "get": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(options.rounds):
            artifact = make(options.artifact, folder / "artifact", parse_size(options.size))
            size = sum(file.stat().st_size for file in artifact.iterdir())
            place = f"{options.url.rstrip('/')}/{secrets.token_hex(8)}"
            steps: list[tuple[str, Callable[[], object]]] = [
                ("push", lambda a=artifact, p=place: push(a, f"{p}/fletcher")),  # type: ignore[misc]
                ("put", lambda a=artifact, p=place: put(a, f"{p}/obstore")),  # type: ignore[misc]
                ("pull", lambda p=place: pull(f"{p}/fletcher", folder / "pulled")),  # type: ignore[misc]
                ("get", lambda p=place: get(f"{p}/obstore", folder / "got")),  # type: ignore[misc]
            ]
            for kind, step in steps if number % 2 else [steps[1], steps[0], steps[3], steps[2]]:
                started = time.perf_counter()
                step()
                speeds[kind].append(size / 1e6 / (time.perf_counter() - started))
            for left in ("pulled", "got", "artifact"):
                shutil.rmtree(folder / left)
    medians = {kind: statistics.median(values) for kind, values in speeds.items()}
    report = {f"{kind}_mb_per_s": round(value, 1) for kind, value in medians.items()}
    ratios = {"push_ratio": medians["push"] / medians["put"], "pull_ratio": medians["pull"] / medians["get"]}
    print(json.dumps(report | {name: round(value, 3) for name, value in ratios.items()}))


def make(source: Path, target: Path, size: int) -> Path:
    """Copy an artifact and add a file of random bytes."""
    shutil.copytree(source, target)
    with (target / "random.bin").open("wb") as file:
        for start in range(0, size, CHUNK_BYTES):
            file.write(secrets.token_bytes(min(CHUNK_BYTES, size - start)))
    manifest = Artifact.open(target).manifest
    write_manifest(target, msgspec.structs.replace(manifest, files=describe_files(target)))
    return target


def opened(url: str) -> tuple[obstore.store.ObjectStore, str]:
    """Return obstore's own store of a URL, and the path in it."""
    place = parse_url(url)
    return store.ObjectStore(place)._store, place.path


def put(folder: Path, url: str) -> None:
    """Upload the files of a folder by obstore's own multipart upload."""
    target, path = opened(url)
    with ThreadPoolExecutor(FILES) as pool:
        list(pool.map(lambda file: obstore.put(target, f"{path}/{file.name}", file), folder.iterdir()))


def get(url: str, folder: Path) -> None:
    """Download the objects below a URL by obstore's own streams."""
    source, path = opened(url)
    folder.mkdir()

    def one(meta: obstore.ObjectMeta) -> None:
        with (folder / meta["path"].rpartition("/")[2]).open("wb") as file:
            for block in obstore.get(source, meta["path"]).stream(min_chunk_size=CHUNK_BYTES):
                file.write(block)

    with ThreadPoolExecutor(FILES) as pool:
        list(pool.map(one, [meta for batch in obstore.list(source, path) for meta in batch]))


if __name__ == "__main__":
    main()
