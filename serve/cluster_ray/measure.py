"""`measure_models`: a trial load of models in a process of its own, and the memory that they needed."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from fletcher.model_zoo.decode import decode_json
from fletcher.runtime import Encoder, LoadOptions
from fletcher.runtime.errors import FletcherError
from fletcher.runtime.inputs import Pairs, Texts
from fletcher.runtime.machine.gpus import memory_info, this_gpus
from fletcher.runtime.model_info import require_output
from fletcher.runtime.options.embed import EmbedOptions

from ..models.spec import ModelSpec

__all__ = ["Measured", "measure_models", "peak_memory"]

#: Word of the texts of the trial. A text of as many words as a model takes tokens is at least as long as its longest input.
WORD: Final = "memory "

#: Full batches that each worker computes.
BATCHES: Final = 2


class Measured(msgspec.Struct, frozen=True):
    """Memory that models needed, with full batches of their longest texts.

    Attributes:
        memory: largest resident memory of the process, in bytes.
        gpu_memory: bytes of the first GPU that were in use beside those before; 0 without a GPU.
        problem: reason why a model cannot be used; empty if there is none.
        digest: digest of the first model's artifact.
        space: identifier of the space of the first model's vectors, with the options of the trial.
        dimension: elements of the first model's vectors.
    """

    memory: int = 0
    gpu_memory: int = 0
    problem: str = ""
    digest: str = ""
    space: str = ""
    dimension: int = 0


def measure_models(specs: bytes, options: bytes | None = None) -> bytes:
    """Load models, compute full batches, and return what they needed as the JSON of `Measured`.

    Args:
        specs: list of `ModelSpec` as JSON, at least one.
        options: `EmbedOptions` as JSON, which the models must have. Default: none are checked.
    """
    embed = None if options is None else decode_json(options, EmbedOptions)
    gpu = bool(this_gpus().gpus)
    before = memory_info(0)[0] if gpu else 0
    encoders: list[Encoder] = []
    try:
        for spec in decode_json(specs, list[ModelSpec]):
            try:
                encoder = Encoder.load(spec.path, LoadOptions.of(spec))
                encoders.append(encoder)
                if embed is not None:
                    require_output(encoder.card, "vectors")
                    encoder.info.check(embed)
                _fill(encoder)
            except FletcherError as error:
                return msgspec.json.encode(Measured(problem=f"{spec.name or spec.path}: {error}"))
        used = before - memory_info(0)[0] if gpu else 0
        info = encoders[0].info
        space = "" if embed is None else info.spaces.of(embed)
        return msgspec.json.encode(Measured(peak_memory(), max(used, 0), "", info.digest, space, info.dimension))
    finally:
        for encoder in encoders:
            encoder.close()


def _fill(encoder: Encoder) -> None:
    """Compute full batches of the longest texts on all workers."""
    info = encoder.info
    rows = max(BATCHES * info.workers * max(info.token_budget // info.max_tokens, 1), 1)
    text = WORD * info.max_tokens
    output = info.card.output
    inputs = Pairs(text, (text,) * rows) if output == "scores" else Texts(tuple(f"{text}{row}" for row in range(rows)))
    encoder.compute(encoder.prepare(inputs, output=output).encodings)


def peak_memory() -> int:
    """Return the largest resident memory of this process in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
