"""Large checkpoints that take no disk, and the private memory of a process that reads them."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

__all__ = ["run_watched", "save_sparse"]

_WATCH = """
import os, sys, threading, time
from pathlib import Path
peak, disk, done = 0, 0, threading.Event()
def size(file):
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
def watch():
    global peak, disk
    while not done.wait(0.005):
        with open("/proc/self/status") as status:
            peak = max(peak, *(int(line.split()[1]) for line in status if line.startswith("RssAnon")))
        disk = max(disk, sum(size(file) for file in Path(sys.argv[2]).parent.glob(".*.new.*/**/*")))
threading.Thread(target=watch, daemon=True).start()
{script}
done.set()
print(peak * 1024, disk)
"""


def run_watched(script: str, source: Path, output: Path, *arguments: str) -> tuple[int, int]:
    """Run a script in a process, and return its largest private memory and the most that it had on the disk, in bytes.

    Pages of mapped files are not private: the system drops them if another program needs memory.

    Args:
        script: statements in Python, whose `sys.argv` has the other arguments.
        source: folder that it reads.
        output: artifact that it writes.
        arguments: further arguments.
    """
    command = [sys.executable, "-c", _WATCH.replace("{script}", script), str(source), str(output), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=850, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    memory, disk = map(int, result.stdout.split())
    return memory, disk


def save_sparse(folder: Path, *, hidden: int, layers: int, rows: int) -> int:
    """Write a BERT in bf16 whose matrices are zeros that the file does not hold; return its size in bytes."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (rows, hidden),
        "embeddings.position_embeddings.weight": (64, hidden),
        "embeddings.token_type_embeddings.weight": (2, hidden),
        "embeddings.LayerNorm.weight": (hidden,),
        "embeddings.LayerNorm.bias": (hidden,),
    }
    for index in range(layers):
        matrices: dict[str, tuple[int, int]] = dict.fromkeys(
            ("attention.self.query", "attention.self.key", "attention.self.value"), (hidden, hidden)
        )
        matrices |= {"attention.output.dense": (hidden, hidden), "intermediate.dense": (4 * hidden, hidden)}
        matrices |= {"output.dense": (hidden, 4 * hidden)}
        for name, matrix in matrices.items():
            shapes[f"encoder.layer.{index}.{name}.weight"] = matrix
            shapes[f"encoder.layer.{index}.{name}.bias"] = matrix[:1]
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            for part in ("weight", "bias"):
                shapes[f"encoder.layer.{index}.{name}.{part}"] = (hidden,)
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    folder.mkdir()
    random = np.random.default_rng(1)
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.truncate(8 + len(text) + end)
        for name, shape in shapes.items():
            if len(shape) == 1:
                stream.seek(8 + len(text) + header[name]["data_offsets"][0])
                stream.write(random.normal(size=shape).astype(ml_dtypes.bfloat16).tobytes())
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "intermediate_size": 4 * hidden, "vocab_size": rows}
    config = {"model_type": "bert", "num_attention_heads": hidden // 64, "max_position_embeddings": 64, **sizes}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij"]) + "\n")
    return 8 + len(text) + end
