"""Figures of docs/reference/benchmarks.md that need an NVIDIA GPU, on a host without a package index.

    PYTHONPATH=SITE:src python -m benchmarks.gpu.run CHECKPOINT --output FILE.json [--only NAME ...] [--seconds 60]

CHECKPOINT is the folder of all-MiniLM-L6-v2; benchmarks/gpu/models.py makes all other models. The benchmark needs
torch, transformers, onnx and onnxruntime-gpu, and sentence-transformers for one comparison. The docstring of each part
says what it measures. Compared rounds are interleaved, and a figure is the median. `python benchmarks/gpu/parity.py`
checks correctness.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch  # before onnxruntime, which uses torch's CUDA libraries
from benchmarks.gpu.models import make_artifact, make_checkpoint
from benchmarks.gpu.texts import ragged_texts, texts_of
from benchmarks.gpu.watch import Watch
from numpy.typing import NDArray

from fletcher import Encoder
from fletcher.runtime.artifact.manifest import HALF_VECTORS
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.machine.gpus import memory_info, this_gpus

ROUNDS = 5
#: Texts and tokens of the batch of `arithmetic`.
TEXTS, TOKENS = 256, 128


class Bench:
    """`Bench`: arguments and models that the parts share."""

    def __init__(self, checkpoint: Path, folder: Path, args: argparse.Namespace) -> None:
        self.checkpoint = checkpoint
        self.folder = folder
        self.args = args
        self._artifacts: dict[str, Path] = {}

    def artifact(self, name: str) -> Path:
        """Return an fp16 artifact, which is made once. A random checkpoint is in the folder `NAME-checkpoint`."""
        if name not in self._artifacts:
            checkpoint, artifact = self.checkpoint, self.folder / name
            if not artifact.exists():
                if name != "minilm":
                    checkpoint = make_checkpoint(
                        name, self.folder / f"{name}-checkpoint", checkpoint / "tokenizer.json"
                    )
                make_artifact(checkpoint, artifact, max_tokens=None if name == "minilm" else 512)
            self._artifacts[name] = artifact
        return self._artifacts[name]

    def load(self, name: str, **options: Any) -> Encoder:
        return Encoder.load(self.artifact(name), provider="cuda", **options)


def interleaved(calls: Mapping[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Return the seconds of each call in each round, after one uncounted call."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def latencies(call: Callable[[int], object], count: int) -> dict[str, float]:
    """Return median and 99th percentile of the milliseconds of a call, which gets its number."""
    for number in range(30):
        call(number)
    taken = []
    for number in range(count):
        started = time.perf_counter()
        call(number)
        taken.append(1000 * (time.perf_counter() - started))
    taken.sort()
    return {"p50_ms": taken[count // 2], "p99_ms": taken[int(count * 0.99)]}


def sentence_transformer(bench: Bench) -> Any:
    """Load sentence-transformers with torch in float16 on the GPU."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(bench.checkpoint), device="cuda", model_kwargs={"torch_dtype": torch.float16})


def throughput(bench: Bench) -> dict[str, Any]:
    """Measure MiniLM on 40,000 ragged texts in arrival order.

    Cases: text in to float16 vectors out, token ids in to float16 vectors out, and sentence-transformers in float16 on an
    eighth of the texts with the best of three batch sizes.
    """
    texts = ragged_texts(40_000)
    peer = sentence_transformer(bench)
    few = texts[:5000]
    with bench.load("minilm") as encoder:
        encodings = encoder.tokenize(texts)
        started = time.perf_counter()
        encoder.tokenize(texts)
        tokenizing = time.perf_counter() - started
        peers = {}
        for size in (128, 512, 1024):
            started = time.perf_counter()
            peer.encode(few, batch_size=size)
            peers[size] = time.perf_counter() - started
        best = min(peers, key=lambda size: peers[size])
        seconds = interleaved(
            {
                "text": lambda: encoder.embed(texts, dtype="float16"),
                "ids": lambda: encoder.compute(encodings, HALF_VECTORS),
                "sentence-transformers": lambda: peer.encode(few, batch_size=best),
            }
        )
        budget, workers = encoder.info.token_budget, encoder.info.workers
    rates = {
        name: (len(few) if "-" in name else len(texts)) / statistics.median(taken) for name, taken in seconds.items()
    }
    return {
        "texts_per_s": rates,
        "best_texts_per_s": {name: (len(few) if "-" in name else len(texts)) / min(s) for name, s in seconds.items()},
        "tokens": {"mean": float(encodings.lengths.mean()), "longest": int(encodings.lengths.max())},
        "text_over_ids": rates["text"] / rates["ids"],
        "text_over_sentence_transformers": rates["text"] / rates["sentence-transformers"],
        "tokenizing_alone_texts_per_s": len(texts) / tokenizing,
        "sentence_transformers_batch": best,
        "token_budget": budget,
        "workers": workers,
    }


def tiny(bench: Bench) -> dict[str, Any]:
    """Measure bert-tiny's dimensions on 100,000 texts of 64 tokens: text in to float16 vectors out."""
    with bench.load("bert-tiny") as encoder:
        texts = texts_of(100_000, 64, encoder)
        lengths = encoder.tokenize(texts[:1000]).lengths
        seconds = interleaved({"text": lambda: encoder.embed(texts, dtype="float16")})["text"]
    return {"texts_per_s": len(texts) / statistics.median(seconds), "tokens": [int(lengths.min()), int(lengths.max())]}


def flops(config: Any, tokens: int, length: int, gated: bool) -> float:
    """Return the floating point operations of a batch in layers and attention; a multiply-add counts as 2."""
    hidden, inner = config.hidden_size, config.intermediate_size
    weights = 4 * hidden**2 + (3 if gated else 2) * hidden * inner
    return config.num_hidden_layers * tokens * (2 * weights + 4 * length * hidden)


def arithmetic(bench: Bench) -> dict[str, Any]:
    """Measure the TFLOP/s of BERT-base's and nomic-embed's dimensions, batches of 256 x 128 tokens, ids to pooled vectors.

    The comparison is PyTorch in float16 with sdpa, and with torch.compile. Each call is 12 batches; PyTorch waits once,
    at the end.
    """
    return {"bert-base": arithmetic_of(bench, "bert-base"), "nomic-embed": arithmetic_of(bench, "nomic-embed")}


def arithmetic_of(bench: Bench, name: str) -> dict[str, Any]:
    """Measure the TFLOP/s of one model."""
    from transformers import AutoConfig, AutoModel

    with bench.load(name) as encoder:
        folder = bench.folder / f"{name}-checkpoint"
        config = AutoConfig.from_pretrained(folder)
        work = flops(config, TEXTS * TOKENS, TOKENS, gated=name.startswith("nomic"))
        ids = np.random.default_rng(0).integers(1000, 20_000, (TEXTS, TOKENS), np.int32)
        # Rows of equal length form 12 batches of exactly this shape.
        many = Encodings.from_lists(list(np.tile(ids, (12, 1))))
        encoder._workers.token_budget = TEXTS * TOKENS
        model = AutoModel.from_pretrained(folder, dtype=torch.float16, attn_implementation="sdpa").cuda().eval()
        compiled = torch.compile(model)
        inputs = torch.from_numpy(ids.astype(np.int64)).cuda()
        mask = torch.ones_like(inputs)

        def by_torch(network: Any) -> None:
            with torch.inference_mode():
                for _ in range(12):
                    pooled = network(input_ids=inputs, attention_mask=mask).last_hidden_state.mean(1)
                torch.nn.functional.normalize(pooled).half().cpu()

        calls: dict[str, Callable[[], object]] = {
            "fletcher": lambda: encoder.compute(many, HALF_VECTORS),
            "sdpa": lambda: by_torch(model),
            "compile": lambda: by_torch(compiled),
        }
        seconds = interleaved(calls)
        sustained = {name: steady(call) for name, call in calls.items()}
    medians = {key: statistics.median(value) for key, value in seconds.items()}
    return {
        "tflops": {key: 12 * work / value / 1e12 for key, value in medians.items()},
        "faster_than_sdpa": medians["sdpa"] / medians["fletcher"],
        "faster_than_compile": medians["compile"] / medians["fletcher"],
        "sustained": sustained,
    }


def steady(call: Callable[[], object]) -> dict[str, float]:
    """Watch the GPU while a call is repeated for two seconds: clocks fall if its power reaches the limit."""
    with Watch(50) as watch:
        started = time.perf_counter()
        while time.perf_counter() - started < 2:
            call()
    return watch.medians()


def latency(bench: Bench) -> dict[str, Any]:
    """Measure MiniLM on single short texts, text in to vector out, each text different, and count captures while serving."""
    from torch.profiler import ProfilerActivity, profile

    texts = [f"how do I open a file in python {number}" for number in range(3000)]
    peer = sentence_transformer(bench)
    with bench.load("minilm") as encoder:
        ours = [latencies(lambda number: encoder.embed([texts[number]]), 1000) for _ in range(3)]
        theirs = latencies(lambda number: peer.encode([texts[number]]), 200)
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
            for text in texts[:200]:
                encoder.embed([text])
            encoder.embed(texts[:500])
        calls = {event.key: event.count for event in profiled.key_averages() if event.key.startswith(("cuda", "cu"))}
        counters = {
            name: value() for metric in encoder.metrics().devices for name, value in [(metric.name, metric.value)]
        }
    return {
        "fletcher": ours,
        "sentence_transformers": theirs,
        "captures_in_service": sum(count for key, count in calls.items() if "BeginCapture" in key),
        "graph_launches_in_service": sum(count for key, count in calls.items() if "GraphLaunch" in key),
        "counters": {name: value for name, value in counters.items() if "graph" in name},
    }


def sustained(bench: Bench) -> dict[str, Any]:
    """Run MiniLM without a pause, and report utilization, and memory after the first tenth and at the end."""
    texts = ragged_texts(40_000)
    with bench.load("minilm") as encoder:
        encoder.embed(texts, dtype="float16")
        with Watch(500) as watch:
            done, started = 0, time.perf_counter()
            while time.perf_counter() - started < bench.args.seconds:
                done += len(encoder.embed(texts, dtype="float16"))
            seconds = time.perf_counter() - started
    tail = watch.samples[len(watch.samples) // 10 :]
    return {
        "seconds": seconds,
        "texts_per_s": done / seconds,
        "busy_mean_percent": statistics.mean(busy for busy, *_ in tail),
        "memory_mib": {"first": tail[0][1], "last": tail[-1][1], "most": max(sample[1] for sample in tail)},
    }


def cosines(vectors: NDArray[np.float64], expected: NDArray[np.float64]) -> dict[str, float]:
    """Return the smallest and the mean cosine of the texts' vectors with their references."""
    each = np.sum(vectors * expected, 1) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(expected, axis=1)
    return {"min_cosine": float(each.min()), "mean_cosine": float(each.mean())}


def accuracy(bench: Bench) -> dict[str, Any]:
    """Compare MiniLM in float16 on the GPU with transformers in float32 on the processor, on 1,000 ragged texts."""
    from sentence_transformers import SentenceTransformer

    texts = ragged_texts(1000, seed=7)
    expected = SentenceTransformer(str(bench.checkpoint), device="cpu").encode(texts, batch_size=64).astype(np.float64)
    with bench.load("minilm") as encoder:
        vectors = encoder.embed(texts, dtype="float16").vectors.astype(np.float64)
        alone = np.concatenate([encoder.embed([text]).vectors for text in texts[:200]]).astype(np.float64)
    return {
        **cosines(vectors, expected),
        "min_cosine_alone": cosines(alone, expected[:200])["min_cosine"],
        "alone_against_batch": float(np.abs(alone - vectors[:200]).max()),
    }


def kernels(bench: Bench) -> dict[str, Any]:
    """Report the milliseconds of each kind of kernel in a batch."""
    from torch.profiler import ProfilerActivity, profile

    results = {}
    for name in ("minilm", "bert-base", "nomic-embed"):
        with bench.load(name) as encoder:
            rows = np.random.default_rng(0).integers(1000, 20_000, (TEXTS, TOKENS), np.int32)
            batch = Encodings.from_lists(list(rows))
            encoder.compute(batch)
            with profile(activities=[ProfilerActivity.CUDA]) as profiled:
                for _ in range(3):
                    encoder.run(batch, HALF_VECTORS)
                torch.cuda.synchronize()
        events = sorted(
            (
                (event.self_device_time_total / 3000, event.count // 3, event.key[:90])
                for event in profiled.key_averages()
            ),
            reverse=True,
        )
        results[name] = {
            "total_ms": sum(ms for ms, *_ in events),
            "kernels": [f"{ms:.3f} ms in {count}: {key}" for ms, count, key in events[:16]],
        }
    return results


PARTS: Mapping[str, Callable[[Bench], dict[str, Any]]] = {
    part.__name__: part for part in (accuracy, throughput, tiny, latency, arithmetic, kernels, sustained)
}


def main() -> None:
    """Run the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--only", action="append", choices=sorted(PARTS))
    parser.add_argument("--seconds", type=float, default=60.0, help="time of the sustained run")
    parser.add_argument("--folder", type=Path, help="folder that keeps the artifacts for the next run")
    args = parser.parse_args()
    import onnxruntime

    gpu = this_gpus().gpus[0]
    report: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "gpu": gpu.name,
        "driver": this_gpus().driver,
        "versions": {"onnxruntime": onnxruntime.__version__, "torch": torch.__version__},
        "free_bytes": memory_info(gpu.index)[0],
    }
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args.checkpoint, args.folder or Path(folder), args)
        for name in args.only or PARTS:
            started = time.perf_counter()
            report[name] = PARTS[name](bench)
            print(f"{name} ({time.perf_counter() - started:.0f} s): {json.dumps(report[name], indent=1)}", flush=True)
            if args.output is not None:
                args.output.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
