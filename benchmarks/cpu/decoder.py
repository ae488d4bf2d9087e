"""Embedding by a language model on processors: Fletcher's graphs against sentence-transformers with torch.

    python benchmarks/cpu/decoder.py FOLDER [--layers 4] [--texts 1 8] [--rounds 5] [--threads 1] [--recipes w8 w4]

The model has Qwen3-Embedding-0.6B's dimensions and random weights, but fewer layers and words: all layers take the same
time, and a lookup takes next to none. FOLDER keeps the checkpoint and the artifacts. A call embeds texts of 128 tokens, from
token ids for Fletcher and from texts for sentence-transformers, whose tokenizer takes 0.1 ms of a call. The calls take turns
in one process. The judge is the CPU time of the process, which other programs on the machine change little; `--threads 0`
takes all processors, for wall time on an idle machine. Each figure is the median of the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import Qwen3Config, Qwen3Model

from fletcher import quantize
from fletcher.convert.export.export import export
from fletcher.quantize.recipe import load_recipe
from fletcher.runtime import Artifact, Encodings
from fletcher.runtime.providers.opening import open_session
from fletcher.runtime.session.session import Session

END = "<|endoftext|>"
WORDS, TOKENS = 20_000, 128
Array = NDArray[np.float32]


def make_checkpoint(folder: Path, layers: int) -> Path:
    """Write the checkpoint unless it is there, with a tokenizer of whole words that appends an end."""
    if (folder / "modules.json").exists():
        return folder
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=WORDS,
        hidden_size=1024,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        intermediate_size=3072,
        max_position_embeddings=512,
        rope_theta=1e6,
        tie_word_embeddings=True,
    )
    Qwen3Model(config).save_pretrained(folder)
    vocabulary = {END: 0} | {f"w{number}": number for number in range(1, WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=END))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", pair=f"$A $B {END}", special_tokens=[(END, 0)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "pad_token": END, "unk_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": 512}))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 1024, "pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 512}))
    paths = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (kind, path) in enumerate(paths.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder


def make_artifacts(folder: Path, checkpoint: Path, recipes: list[str]) -> dict[str, Path]:
    """Convert and quantize the checkpoint, unless the artifacts are there, and return their folders by name."""
    artifacts = {"fp32": folder / "fp32"} | {recipe: folder / recipe for recipe in recipes}
    if not artifacts["fp32"].exists():
        export(str(checkpoint), artifacts["fp32"])
    rng = np.random.default_rng(1)
    # The built-in texts have no words of this vocabulary, and a calibration needs different tokens.
    texts = [make_text(rng.integers(1, WORDS, length)) for length in range(4, 68)]
    for recipe in recipes:
        if not artifacts[recipe].exists():
            quantize(artifacts["fp32"], artifacts[recipe], recipe, texts=texts)
    return artifacts


def make_text(row: NDArray[np.int64]) -> str:
    """Return the words of token ids."""
    return " ".join(f"w{number}" for number in row)


def interleaved(calls: Mapping[str, Callable[[], Array]], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Return the seconds of the process's CPUs and of the clock in each round, after one that does not count."""
    seconds: dict[str, dict[str, list[float]]] = {name: {"cpu": [], "wall": []} for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            cpu, wall = time.process_time(), time.perf_counter()
            call()
            if number:
                seconds[name]["cpu"].append(time.process_time() - cpu)
                seconds[name]["wall"].append(time.perf_counter() - wall)
    return seconds


def compare(calls: Mapping[str, Callable[[], Array]], clock: str, rounds: int) -> dict[str, Any]:
    """Return the milliseconds of each call, its speed relative to the faster sentence-transformers, and its cosines."""
    seconds = interleaved(calls, rounds)
    best = min(
        (name for name in calls if name.startswith("torch")), key=lambda name: statistics.median(seconds[name][clock])
    )
    reference = calls["torch fp32"]().astype(np.float64)
    report: dict[str, Any] = {}
    for name, call in calls.items():
        ratios = [theirs / ours for ours, theirs in zip(seconds[name][clock], seconds[best][clock], strict=True)]
        cosines = np.sum(call().astype(np.float64) * reference, axis=1)
        report[name] = {
            f"{clock}_ms": round(1e3 * statistics.median(seconds[name][clock]), 1),
            f"over {best}": [round(value, 2) for value in (statistics.median(ratios), min(ratios), max(ratios))],
            "min cosine": round(float(cosines.min()), 6),
        }
    return report


def by_torch(model: SentenceTransformer, texts: list[str]) -> Array:
    """Embed texts in one batch."""
    vectors: Array = model.encode(texts, batch_size=len(texts), show_progress_bar=False)
    return vectors


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--texts", type=int, nargs="+", default=[1, 8], help="texts of a call")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--recipes", nargs="*", default=["w8", "w4", "int8-per-token"])
    parser.add_argument("--providers", nargs="+", default=["mlas"], help="Fletcher's providers of the float graph")
    args = parser.parse_args()
    threads = args.threads or len(os.sched_getaffinity(0))
    clock = "cpu" if threads == 1 else "wall"
    torch.set_num_threads(threads)
    checkpoint = make_checkpoint(args.folder / "checkpoint", args.layers)
    artifacts = make_artifacts(args.folder, checkpoint, args.recipes)
    peers = {
        f"torch {name}": SentenceTransformer(str(checkpoint), device="cpu", model_kwargs={"dtype": dtype})
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))
    }
    rng = np.random.default_rng(0)
    with ExitStack() as stack:

        def opened(path: Path, provider: str) -> Session:
            artifact = Artifact.open(path)
            return stack.enter_context(open_session(artifact, artifact.variant(), provider=provider, threads=threads))

        sessions = {f"fletcher {provider}": opened(artifacts["fp32"], provider) for provider in args.providers}
        for recipe in args.recipes:
            provider = "openvino" if load_recipe(recipe).target == "openvino" else "mlas"
            sessions[f"fletcher {recipe}"] = opened(artifacts[recipe], provider)
        for count in args.texts:
            ids = rng.integers(1, WORDS, (count, TOKENS - 1))
            texts = [make_text(row) for row in ids]
            batch = Encodings.from_lists([[*row, 0] for row in ids.tolist()])
            calls: dict[str, Callable[[], Array]] = {
                name: lambda session=session, batch=batch: session.run(batch) for name, session in sessions.items()
            }
            calls |= {name: lambda model=model, texts=texts: by_torch(model, texts) for name, model in peers.items()}
            print(json.dumps({"texts": count, **compare(calls, clock, args.rounds)}, indent=1), flush=True)


if __name__ == "__main__":
    main()
