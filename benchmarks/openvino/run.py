"""Throughput and overlap@10 of Fletcher's variants on OpenVINO and of sentence-transformers' openvino-qint8.

    python benchmarks/openvino/run.py FP32 --variant ARTIFACT=openvino … --peer PYTHON_OF_PEERS=FOLDER [--corpus sentences]

FP32 is the float32 artifact: the reference of overlap@10 (on mlas), and a participant on openvino-bf16 with `--variant
FP32=openvino-bf16`. `prepare.py` writes FOLDER. All participants take turns in each round. A ratio is that of one round,
and the table gives the median and the worst ratio. The peer runs with its best batch size of a trial.
"""

from __future__ import annotations

import argparse
import json
import statistics
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from fletcher.quantize.measure.metrics import compare
from fletcher.runtime import Encoder
from fletcher.runtime.corpora import corpus
from fletcher.runtime.machine.machine import this_machine
from fletcher.serve.bench.participants import Participant, fletcher_command, peer_command

BATCH_SIZES = (8, 16, 32, 64, 128)
PEER = "sentence-transformers-openvino-qint8"


def main() -> None:
    """Run the comparison, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fp32", type=Path)
    parser.add_argument("--variant", action="append", required=True, help="ARTIFACT=PROVIDER")
    parser.add_argument("--peer", required=True, help="PYTHON=FOLDER")
    parser.add_argument("--corpus", default="docstrings", choices=("docstrings", "sentences"))
    parser.add_argument("--count", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    texts = corpus(arguments.corpus, arguments.count)
    with Encoder.load(arguments.fp32, provider="mlas") as encoder:
        reference = encoder.embed(texts).vectors
    python, _, folder = arguments.peer.partition("=")
    with ExitStack() as stack:
        peer = stack.enter_context(Participant(*peer_command(f"{PEER}={python}", Path(folder))))
        ours = []
        for variant in arguments.variant:
            path, _, provider = variant.rpartition("=")
            options = {"provider": provider, "workers": len(this_machine().processors), "min_cosine": 0.9}
            command = fletcher_command(Path(path), options)
            ours.append(stack.enter_context(Participant(f"{Path(path).name} on {provider}", command)))
        participants = [peer, *ours]
        for one in participants:
            one.ask(do="texts", texts=texts)
            one.ask(do="embed", count=min(len(texts), 64))
        trials = dict.fromkeys(BATCH_SIZES, float("inf"))
        for size in BATCH_SIZES * 2:
            peer.ask(do="batch_size", size=size)
            trials[size] = min(trials[size], peer.ask(do="embed", count=min(len(texts), 200))["seconds"])
        best = min(BATCH_SIZES, key=lambda size: trials[size])
        peer.ask(do="batch_size", size=best)
        seconds: dict[str, list[float]] = {one.name: [] for one in participants}
        for turn in range(arguments.rounds):
            for one in participants if turn % 2 == 0 else reversed(participants):
                seconds[one.name].append(one.ask(do="embed", count=len(texts))["seconds"])
        results = {}
        for one in participants:
            metrics = compare(one.vectors(texts), reference)
            ratios = [theirs / own for theirs, own in zip(seconds[peer.name], seconds[one.name], strict=True)]
            results[one.name] = {
                "ratio": statistics.median(ratios),
                "ratio_lowest": min(ratios),
                "texts_per_s": len(texts) / statistics.median(seconds[one.name]),
                "overlap": metrics.neighbors,
                "cosine_mean": metrics.cosine_mean,
                "cosine_min": metrics.cosine_min,
            }
    print(
        f"{len(texts)} {arguments.corpus}, {arguments.rounds} rounds; {PEER} at its best batch size {best}; {peer.versions}"
    )
    for name, figures in results.items():
        print(f"{name:45}", "  ".join(f"{key} {np.round(value, 5)}" for key, value in figures.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
