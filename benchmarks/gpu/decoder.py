"""Embedding by a language model on an NVIDIA GPU: Fletcher's graphs against PyTorch, on a host without a package index.

    PYTHONPATH=SITE:src:. python -m benchmarks.gpu.decoder FOLDER --output FILE.json [--precision bf16 fp16] [--kernels]

The model has Qwen3-Embedding-0.6B's dimensions and random weights, stored in bfloat16; FOLDER keeps it and its artifacts.
A call embeds 1,024 texts of 256 token ids, last token, L2 norm, vectors on the host. The peers are transformers' model in
bfloat16 with sdpa, as it is and with torch.compile. Each side has the best of three batch sizes. Calls are interleaved, and a
figure is the median of the rounds. It also reports the smallest cosine with the model in float32 on texts of different
lengths, and the milliseconds of each kind of kernel in one batch. With --kernels, a second artifact has Fletcher's own
operators, whose library must be built.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch  # before onnxruntime, which uses torch's CUDA libraries
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import Qwen3Config, Qwen3Model

from fletcher import Encoder
from fletcher.convert.export.export import export
from fletcher.runtime.encodings import Encodings

TEXTS, TOKENS = 1024, 256
ROUNDS = 5
#: Texts of one batch. Each side is judged by its best one.
BATCHES = (16, 64, 256)
PEERS = ("sdpa", "compile")
#: Lengths of the texts whose vectors are compared with float32's.
LENGTHS = (2, 3, 17, 64, 100, 255, 256, 300, 511)
END = "<|endoftext|>"


def make_checkpoint(folder: Path) -> Path:
    """Write the checkpoint unless it is there: random weights, and a small tokenizer that appends an end."""
    if (folder / "tokenizer_config.json").exists():
        return folder
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=151_669,
        hidden_size=1024,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        intermediate_size=3072,
        max_position_embeddings=32_768,
        rope_theta=1e6,
        tie_word_embeddings=True,
    )
    Qwen3Model(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        ["the quick brown fox jumps over a lazy dog"],
        trainers.BpeTrainer(vocab_size=300, special_tokens=[END], initial_alphabet=alphabet),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", pair=f"$A $B {END}", special_tokens=[(END, tokenizer.token_to_id(END))]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "pad_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": 512}))
    return folder


def make_artifact(checkpoint: Path, folder: Path, precision: str, *, kernels: bool = False) -> Path:
    """Convert the checkpoint unless the artifact is there."""
    if not folder.exists():
        export(
            str(checkpoint),
            folder,
            targets=("cuda",),
            precisions=(precision,),
            pooling="lasttoken",
            max_tokens=512,
            verify=False,
            kernels=kernels,
        )
    return folder


def by_torch(model: Any, ids: torch.Tensor, size: int) -> NDArray[np.float32]:
    """Embed texts of one length in batches."""
    parts = []
    with torch.inference_mode():
        for start in range(0, len(ids), size):
            states = model(input_ids=ids[start : start + size], use_cache=False).last_hidden_state
            parts.append(torch.nn.functional.normalize(states[:, -1].float()))
        vectors: NDArray[np.float32] = torch.cat(parts).cpu().numpy()
    return vectors


def interleaved(calls: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Return the median seconds of each call after two uncounted ones."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(ROUNDS + 2):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if number > 1:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def kernels(encoder: Encoder, batch: Encodings) -> list[str]:
    """Return the milliseconds of the longest kinds of kernels in one batch."""
    from torch.profiler import ProfilerActivity, profile

    encoder.run(batch)
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        encoder.run(batch)
        torch.cuda.synchronize()
    events = sorted(profiled.key_averages(), key=lambda event: -event.self_device_time_total)
    total = sum(event.self_device_time_total for event in events) / 1e3
    longest = [
        f"{event.self_device_time_total / 1e3:.2f} ms in {event.count}: {event.key[:90]}" for event in events[:10]
    ]
    return [f"{total:.2f} ms for {len(batch)} texts", *longest]


def accuracy(encoder: Encoder, model: Any, rng: np.random.Generator) -> float:
    """Return the smallest cosine with the model in float32 on texts of different lengths, which are one batch."""
    rows = [rng.integers(300, 20_000, length, np.int32) for length in LENGTHS]
    ours = np.asarray(encoder.compute(Encodings.from_lists(rows)), np.float64)
    cosines = []
    with torch.inference_mode():
        for row, vector in zip(rows, ours, strict=True):
            ids = torch.from_numpy(row.astype(np.int64))[None].cuda()
            theirs = model(input_ids=ids, use_cache=False).last_hidden_state[0, -1].double().cpu().numpy()
            cosines.append(vector @ theirs / np.linalg.norm(vector) / np.linalg.norm(theirs))
    return float(min(cosines))


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--precision", nargs="+", default=["bf16", "fp16"], choices=["bf16", "fp16"])
    parser.add_argument("--kernels", action="store_true", help="Measure graphs with Fletcher's kernels, too.")
    args = parser.parse_args()
    checkpoint = make_checkpoint(args.folder / "checkpoint")
    rng = np.random.default_rng(0)
    ids = rng.integers(300, 20_000, (TEXTS, TOKENS), np.int32)
    many = Encodings.from_lists(list(ids))
    on_gpu = torch.from_numpy(ids.astype(np.int64)).cuda()
    model = Qwen3Model.from_pretrained(checkpoint, dtype=torch.bfloat16, attn_implementation="sdpa").cuda().eval()
    exact = Qwen3Model.from_pretrained(checkpoint, dtype=torch.float32).cuda().eval()
    compiled = torch.compile(model, dynamic=False)
    calls: dict[str, Callable[[], object]] = {}
    for size in BATCHES:
        calls[f"sdpa {size}"] = lambda size=size: by_torch(model, on_gpu, size)
        calls[f"compile {size}"] = lambda size=size: by_torch(compiled, on_gpu, size)
    report: dict[str, Any] = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
    for precision in args.precision:
        folders = {"fletcher": make_artifact(checkpoint, args.folder / precision, precision)}
        if args.kernels:
            with_kernels = args.folder / f"{precision}-kernels"
            folders["kernels"] = make_artifact(checkpoint, with_kernels, precision, kernels=True)
        with ExitStack() as stack:
            encoders = {
                f"{name} {size}": stack.enter_context(Encoder.load(folder, provider="cuda", token_budget=size * TOKENS))
                for name, folder in folders.items()
                for size in BATCHES
            }
            ours = {name: lambda encoder=encoder: encoder.compute(many) for name, encoder in encoders.items()}
            seconds = interleaved({**ours, **calls})
            rates = {name: TEXTS * TOKENS / value for name, value in seconds.items()}
            best = {kind: max(rate for key, rate in rates.items() if kind in key) for kind in (*folders, *PEERS)}
            report[precision] = {"tokens/s": rates}
            for name in folders:
                encoder = encoders[f"{name} {BATCHES[0]}"]
                report[precision][name] = {
                    **{f"over {peer}": best[name] / best[peer] for peer in PEERS},
                    "min cosine": accuracy(encoder, exact, np.random.default_rng(1)),
                    "kernels": kernels(encoder, many.select(np.arange(64))),
                }
        print(json.dumps({precision: report[precision]}, indent=1), flush=True)
        if args.output is not None:
            args.output.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
