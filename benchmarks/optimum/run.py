"""Speed of Fletcher's cpu graph against Optimum's O2 graph of the same BERT-base weights, on the same token ids.

    fletcher-convert model export FOLDER/checkpoint -o FOLDER/artifact --pooling mean
    python benchmarks/optimum/run.py FOLDER [--rounds 5] [--threads 1]

`make.py` writes FOLDER. Both graphs run in ONNX Runtime on the CPU with the same number of threads, in interleaved
rounds, and the report gives the median of the rounds' ratios. Fletcher's graph includes pooling; the benchmark pools the
token vectors of Optimum's graph outside the timing, to check that both graphs compute the same.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from fletcher.runtime import Artifact, Encodings
from fletcher.runtime.providers.opening import open_session


def cases(random: np.random.Generator) -> dict[str, NDArray[np.int64]]:
    """Return the lengths of the texts by case: equal lengths, and ragged ones."""
    return {
        "1 x 16": np.full(1, 16),
        "1 x 128": np.full(1, 128),
        "8 x 128": np.full(8, 128),
        "1 x 512": np.full(1, 512),
        "16 x uniform 8 to 128": random.integers(8, 129, 16),
    }


def padded(batch: Encodings) -> dict[str, NDArray[np.int64]]:
    """Return the inputs of the traced graph: ids, mask and types, (texts, longest)."""
    shape = (len(batch), int(batch.lengths.max()))
    mask = (np.arange(shape[1]) < batch.lengths[:, None]).astype(np.int64)
    ids = np.zeros(shape, np.int64)
    ids[mask.astype(bool)] = batch.ids
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros(shape, np.int64)}


def seconds(run: Callable[[], object]) -> float:
    """Return the time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    """Run the comparison, and print a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()

    artifact = Artifact.open(args.folder / "artifact")
    ours = open_session(artifact, artifact.variant(), threads=args.threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads
    theirs = onnxruntime.InferenceSession(next((args.folder / "o2").glob("*.onnx")), options, ["CPUExecutionProvider"])
    input_names = {value.name for value in theirs.get_inputs()}

    random = np.random.default_rng(0)
    result = {}
    print(f"{'texts':>24}{'O2 / Fletcher, median (lowest to highest) of the rounds':>60}")
    for name, lengths in cases(random).items():
        batch = Encodings.from_lists([random.integers(4, 30000, length).astype(np.int32) for length in lengths])
        feeds = {key: value for key, value in padded(batch).items() if key in input_names}
        vectors, states = ours.run(batch), theirs.run(None, feeds)[0]
        mask = padded(batch)["attention_mask"][:, :, None]
        mean = (states * mask).sum(axis=1) / mask.sum(axis=1)
        difference = np.abs(vectors - mean).max()
        if difference > 1e-5:
            raise SystemExit(f"{name}: the two graphs are {difference:.1e} apart")
        repeats = max(1, 1024 // batch.num_tokens)
        ratios = []
        for _ in range(args.rounds):
            mine = other = 0.0
            for _ in range(repeats):
                other += seconds(lambda: theirs.run(None, feeds))  # noqa: B023  called immediately
                mine += seconds(lambda: ours.run(batch))  # noqa: B023
            ratios.append(other / mine)
        result[name] = round(statistics.median(ratios), 3)
        text = f"{result[name]:.2f}  ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"{name:>24}{text:>60}", flush=True)
    print(json.dumps(result))
    ours.close()


if __name__ == "__main__":
    main()
