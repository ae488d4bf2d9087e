"""Process of the engine without a server: `Encoder.embed` on the texts of the loads.

    python -m benchmarks.serve.gpu_parts.engine SPEC

SPEC is a JSON file with the fields of `EngineSpec`. The process writes each pool of texts that is missing, and the vectors
of each pool as reference, and prints one line of JSON with the rates.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from benchmarks.gpu.texts import ragged_texts, texts_of
from benchmarks.serve.gpu_parts.rows import POOLS, Pool

from fletcher import Encoder


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """Work of the process.

    Attributes:
        artifact: folder of the artifact.
        provider: execution provider.
        work: pairs of a pool's name and a dtype.
        count: largest number of texts of a pool.
        seconds: time of each measurement.
        folder: folder of the pools and references.
    """

    artifact: str
    provider: str
    work: list[tuple[str, str]]
    count: int
    seconds: float
    folder: str


def pool_path(folder: Path, pool: str) -> Path:
    """Return the file of a pool's texts, a list in JSON."""
    return folder / f"{pool.replace(' ', '-')}.json"


def reference_path(folder: Path, pool: str, dtype: str) -> Path:
    """Return the file of the engine's vectors of a pool."""
    return folder / f"{pool.replace(' ', '-')}-{dtype}.npy"


def make_texts(pool: Pool, count: int, encoder: Encoder) -> list[str]:
    """Return the texts of a pool."""
    if pool.kind == "numbered":
        return [f"how do I open a file in python {number}" for number in range(count)]
    return ragged_texts(count) if pool.kind == "ragged" else texts_of(count, pool.tokens, encoder)


def main() -> None:
    """Measure, and print the rates."""
    spec = EngineSpec(**json.loads(Path(sys.argv[1]).read_text()))
    folder = Path(spec.folder)
    started = time.perf_counter()
    rates = []
    with Encoder.load(spec.artifact, provider=spec.provider, cache=0) as encoder:
        loaded = time.perf_counter() - started
        for name, dtype in spec.work:
            path = pool_path(folder, name)
            if not path.exists():
                path.write_text(json.dumps(make_texts(POOLS[name], min(POOLS[name].count, spec.count), encoder)))
            texts = json.loads(path.read_text())
            # The first call is not counted.
            np.save(reference_path(folder, name, dtype), encoder.embed(texts, dtype=dtype).vectors)  # type: ignore[arg-type]
            tokens = encoder.tokenize(texts[:2000]).lengths
            taken: list[float] = []
            while len(taken) < 2 or sum(taken) < spec.seconds:
                begun = time.perf_counter()
                encoder.embed(texts, dtype=dtype)  # type: ignore[arg-type]
                taken.append(time.perf_counter() - begun)
            rates.append(
                {
                    "pool": name,
                    "dtype": dtype,
                    "texts_per_s": len(texts) / statistics.median(taken),
                    "rounds": len(taken),
                    "mean_tokens": float(tokens.mean()),
                }
            )
        variant = encoder.info.variant
    print(json.dumps({"load_seconds": loaded, "variant": variant, "rates": rates}))


if __name__ == "__main__":
    main()
