"""Time a token of Longformer's cpu graph at several lengths, beside a graph that computes the full square.

    python benchmarks/longformer/run.py [--layers 2] [--threads 1] [--rounds 5] [--lengths 512,1024,2048,4096]

The model has the dimensions of longformer-base-4096 and random weights; a layer takes the same time whatever the others do,
so that a few are enough. Each round runs every length once, and the figure of a length is the least processor time of its
rounds, in which other processes of the machine do not count. It needs the extra `verify` for transformers.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path

import numpy as np
import transformers

from fletcher.convert.architecture import Architecture, Attention, Block, Layer, Pooling
from fletcher.convert.checkpoint.checkpoint import Checkpoint
from fletcher.convert.families import describe
from fletcher.convert.graph.builder import write_weights
from fletcher.convert.targets.cpu.emit import emit_cpu
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.providers.mlas.session import MlasSession

VOCABULARY = 1000


def without_blocks(architecture: Architecture) -> Architecture:
    """Return the architecture with windows that are computed as masks of the full square."""

    def change(block: Block) -> Block:
        body = block.body
        return (
            dataclasses.replace(block, body=dataclasses.replace(body, blockwise=False))
            if isinstance(body, Attention)
            else block
        )

    layers = (Layer(layer.name, tuple(map(change, layer.blocks))) for layer in architecture.layers)
    return dataclasses.replace(architecture, layers=tuple(layers))


def open_session(architecture: Architecture, folder: Path, threads: int) -> MlasSession:
    """Write a graph with mean pooling, and open it."""
    folder.mkdir()
    graph = emit_cpu(dataclasses.replace(architecture, modules=(Pooling(("mean",)),)), architecture.hidden_size)
    graph.save(folder / "cpu.onnx", write_weights(folder / "weights.safetensors", graph.weights.values()))
    return MlasSession(folder / "cpu.onnx", threads=threads)


def main() -> None:
    """Print one line for each length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lengths", default="512,1024,2048,4096")
    options = parser.parse_args()
    lengths = [int(length) for length in options.lengths.split(",")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = transformers.LongformerConfig(
            vocab_size=VOCABULARY,
            num_hidden_layers=options.layers,
            max_position_embeddings=max(lengths) + 2,
            attention_window=512,
            type_vocab_size=1,
        )
        transformers.LongformerModel(config).save_pretrained(folder)
        architecture = describe(Checkpoint.open(folder))
        generator = np.random.default_rng(0)
        batches = [Encodings.from_lists([generator.integers(5, VOCABULARY, length).tolist()]) for length in lengths]
        graphs = {"blocks": architecture, "square": without_blocks(architecture)}
        sessions = {kind: open_session(part, folder / kind, options.threads) for kind, part in graphs.items()}
        for batch in batches:
            results = [session.run(batch) for session in sessions.values()]
            np.testing.assert_allclose(*results, rtol=0, atol=1e-5)
        best = {(kind, length): float("inf") for kind in sessions for length in lengths}
        for _ in range(options.rounds):
            for kind, session in sessions.items():
                for length, batch in zip(lengths, batches, strict=True):
                    start = time.process_time()
                    session.run(batch)
                    best[kind, length] = min(best[kind, length], time.process_time() - start)
    print("tokens  blocks, us a token  growth  square, us a token  growth")
    for length in lengths:
        figures = [best[kind, length] / length * 1e6 for kind in sessions]
        growths = [best[kind, length] / length / (best[kind, lengths[0]] / lengths[0]) for kind in sessions]
        print(f"{length:6}  {figures[0]:18.1f}  {growths[0]:6.2f}  {figures[1]:18.1f}  {growths[1]:6.2f}")


if __name__ == "__main__":
    main()
