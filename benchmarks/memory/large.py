"""Memory and speed of converting a large language model: a sharded bf16 checkpoint with Qwen3-Embedding's layout.

    python benchmarks/memory/large.py FOLDER [--size 8b] [--target cuda] [--precision bf16] [--json]

The checkpoint is sparse: the first and the last row of each matrix, and the rows of the tokens that its tokenizer has, are
random; the rest are zeros that take no disk. FOLDER needs room for one artifact. The same bytes are first copied by read and
write with fsync, and the copy is deleted; then `fletcher-convert model export` runs as a process of its own, which is
watched. Reading the holes of a sparse file costs the copy and the conversion the same.

Memory (Linux): the peak of the resident size (VmHWM), of private memory (RssAnon), and of mapped pages of files (RssFile),
which belong to the page cache. At the end, values of the artifact are compared with those of the checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from fletcher.convert.checkpoint.weights.safetensors import read_header
from fletcher.runtime import Artifact

COMMAND = "from fletcher.convert.commands.cli import main; main()"
#: Sizes of Qwen3-Embedding: hidden, layers, heads, inner.
SIZES = {"0.6b": (1024, 28, 16, 3072), "4b": (2560, 36, 32, 9728), "8b": (4096, 36, 32, 12288)}
KV_HEADS, HEAD_SIZE, VOCABULARY, POSITIONS = 8, 128, 151_665, 40_960
SHARD = 4_900_000_000  # bytes; the shards on the hub have about 5 GB
BLOCK = 4 << 20
END = "<|endoftext|>"
TOKENS = 512  # rows of the word table that are random

Shapes = dict[str, tuple[int, ...]]


def shapes_of(size: str) -> Shapes:
    """Return the shape of each tensor."""
    hidden, layers, heads, inner = SIZES[size]
    shapes: Shapes = {"embed_tokens.weight": (VOCABULARY, hidden), "norm.weight": (hidden,)}
    for index in range(layers):
        name, widths = f"layers.{index}", {"q": heads * HEAD_SIZE, "k": KV_HEADS * HEAD_SIZE, "v": KV_HEADS * HEAD_SIZE}
        shapes |= {f"{name}.self_attn.{part}_proj.weight": (width, hidden) for part, width in widths.items()}
        shapes[f"{name}.self_attn.o_proj.weight"] = (hidden, heads * HEAD_SIZE)
        shapes |= {f"{name}.self_attn.{part}_norm.weight": (HEAD_SIZE,) for part in "qk"}
        shapes |= {f"{name}.mlp.{part}_proj.weight": (inner, hidden) for part in ("gate", "up")}
        shapes[f"{name}.mlp.down_proj.weight"] = (hidden, inner)
        shapes |= {f"{name}.{part}_layernorm.weight": (hidden,) for part in ("input", "post_attention")}
    return shapes


def save_checkpoint(folder: Path, size: str) -> int:
    """Write the checkpoint, and return the bytes of its weights."""
    hidden, layers, heads, inner = SIZES[size]
    folder.mkdir(parents=True)
    shards: list[Shapes] = [{}]
    for name, shape in shapes_of(size).items():
        if sum(2 * int(np.prod(other)) for other in shards[-1].values()) > SHARD:
            shards.append({})
        shards[-1][name] = shape
    places: dict[str, str] = {}
    total = 0
    for number, shapes in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        places |= dict.fromkeys(shapes, file)
        total += _save_shard(folder / file, shapes)
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_SIZE,
        "intermediate_size": inner,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": POSITIONS,
        "rope_theta": 1e6,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    _save_tokenizer(folder)
    return total


def _save_shard(file: Path, shapes: Shapes) -> int:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    random = np.random.default_rng(len(shapes))
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + end)
        for name, shape in shapes.items():
            start, stop = (8 + len(text) + place for place in header[name]["data_offsets"])
            for begin, count in _random_spans(name, shape, (stop - start) // 2):
                values = random.normal(float(len(shape) == 1), 0.02, count).astype(ml_dtypes.bfloat16)
                stream.seek(start + 2 * begin)
                stream.write(values.tobytes())
    return end


def _random_spans(name: str, shape: tuple[int, ...], elements: int) -> Iterator[tuple[int, int]]:
    """Yield first element and number of the elements that are random."""
    if len(shape) == 1:
        yield 0, elements
    else:
        yield 0, shape[1] * (TOKENS if name.startswith("embed") else 1)
        yield elements - shape[1], shape[1]


def _save_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        ["the quick brown fox jumps over a lazy dog"],
        trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=[END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", pair=f"$A $B {END}", special_tokens=[(END, tokenizer.token_to_id(END))]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "pad_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def copy(folder: Path, target: Path) -> float:
    """Return the seconds of a copy of the weights by read and write, with fsync; the copy is deleted."""
    started = time.perf_counter()
    with target.open("wb") as written:
        for file in sorted(folder.glob("*.safetensors")):
            with file.open("rb") as source:
                while block := source.read(BLOCK):
                    written.write(block)
        written.flush()
        os.fsync(written.fileno())
    seconds = time.perf_counter() - started
    target.unlink()
    return seconds


class Watch:
    """`Watch`: the largest values of lines of /proc/PID/status, in MB."""

    def __init__(self, process: int) -> None:
        """Start to watch a process."""
        self.peaks = dict.fromkeys(("VmHWM", "RssAnon", "RssFile"), 0)
        self._file = Path(f"/proc/{process}/status")
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                lines = dict(line.split(":") for line in self._file.read_text().splitlines())
                for name in self.peaks:
                    self.peaks[name] = max(self.peaks[name], int(lines[name].split()[0]) * 1024 // 1_000_000)
            except (OSError, KeyError):  # the process has ended
                return
            time.sleep(0.01)


def convert(checkpoint: Path, output: Path, options: list[str]) -> dict[str, Any]:
    """Run the command, and return its seconds, those of its CPUs, and its memory."""
    command = [sys.executable, "-c", COMMAND, "model", "export", "--no-verify", str(checkpoint), "-o", str(output)]
    command += options
    started = time.perf_counter()
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        watch = Watch(process.pid)
        assert process.stderr is not None
        errors = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(errors)
    return {
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "memory_mb": watch.peaks,
    }


def compare(checkpoint: Path, output: Path) -> int:
    """Compare the artifact's tensors with the checkpoint's of the same names at the random places; return how many agree."""
    stored = {tensor.name: tensor for file in sorted(checkpoint.glob("*.safetensors")) for tensor in read_header(file)}
    (variant,) = Artifact.open(output).manifest.variants
    same = 0
    for tensor in read_header(output / variant.weights):
        if tensor.name not in stored:
            continue
        ours, theirs = _ends(tensor.read()), _ends(stored[tensor.name].read())
        if len(tensor.shape) == 2 and tensor.name != "embed_tokens.weight":
            ours = _ends(tensor.read().T)
        if not np.array_equal(ours, theirs):
            sys.exit(f"{tensor.name} differs from the checkpoint")
        same += 1
    return same


def _ends(values: NDArray[Any]) -> NDArray[np.float32]:
    return np.concatenate([values[:1], values[-1:]]).astype(np.float32)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=SIZES, default="8b")
    parser.add_argument("--target", default="cuda")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument(
        "--max-tokens",
        type=int,
        default=64,
        help="longest text, which bounds the canary's; each token is 15 GFLOP of 8b",
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=args.folder))
    try:
        checkpoint, output = scratch / "checkpoint", scratch / "artifact"
        size = save_checkpoint(checkpoint, args.size)
        copied = copy(checkpoint, scratch / "copy")
        options = [f"--target={args.target}", f"--precision={args.precision}", f"--max-tokens={args.max_tokens}"]
        figures = convert(checkpoint, output, [*options, "--pooling=lasttoken"])
        written = sum(file.stat().st_size for file in output.iterdir())
        figures |= {"bytes": size, "artifact_bytes": written, "same_tensors": compare(checkpoint, output)}
    finally:
        shutil.rmtree(scratch)
    figures |= {"copy_seconds": round(copied, 1), "copy_mb_per_s": round(size / copied / 1e6)}
    figures["mb_per_s"] = round(size / figures["seconds"] / 1e6)
    print(json.dumps(figures, indent=None if args.json else 1))


if __name__ == "__main__":
    main()
