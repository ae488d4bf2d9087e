"""Makes what `parity.py` needs on a GPU host without a package index: graphs, inputs and transformers' vectors.

    python -m benchmarks.gpu.prepare_parity .carry/gpu_parity

Run it in the repository's root, where torch and transformers are. For every family (tests/convert/targets/models.py), and for
heads of 32 elements besides, which flash attention takes, it writes a folder a precision: the cuda graph and its weights, a
file of inputs and expected vectors a batch, made by the runtime's own feeds and by transformers in float32 on the processor.
About 15 MB in all.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from tests.convert.parity import Parity, make_card
from tests.convert.targets.models import MODELS, Tiny, bert_like, roberta_like
from tests.convert.targets.sessions import architecture_of, models_of

from fletcher.convert.precision import Float
from fletcher.convert.precision_islands import find_islands, record_maxima
from fletcher.convert.targets.emit import PRECISIONS
from fletcher.convert.variants import TOLERANCES
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.feeds import make_feeds

WIDE = {"hidden_size": 64, "num_attention_heads": 2}
WIDE_MODELS: Mapping[str, Callable[[], Tiny]] = {
    "bert_wide": bert_like("bert", "Bert", **WIDE),
    "mpnet_wide": roberta_like("mpnet", "MPNet", **WIDE),
    "xlm-roberta_wide": roberta_like("xlm-roberta", "XLMRoberta", **WIDE),
}
#: Lengths of a batch's texts: one token, equal ones, ragged ones; 0 stands for the longest text.
BATCHES = ((1,), (7, 7, 7), (3, 1, 9, 2, 17, 5, 12), (0, 4, 0, 1))


def main() -> None:
    """Writes every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    output: Path = parser.parse_args().output
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    for name, make in {**MODELS, **WIDE_MODELS}.items():
        for precision in PRECISIONS["cuda"]:
            write_case(output / f"{name}-{precision}", make(), precision)
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    print(f"{output}: {len(list(output.iterdir()))} cases, {size / 1e6:.1f} MB")


def write_case(folder: Path, tiny: Tiny, precision: Float) -> None:
    """One model in one precision."""
    folder.mkdir()
    parity = Parity(tiny.model, None, tiny.tokens, tiny.vocabulary, tiny.longest)  # type: ignore[arg-type]
    batches = [parity.rows([length or tiny.longest for length in lengths]) for lengths in BATCHES]
    with tempfile.TemporaryDirectory() as checkpoint:
        card = make_card(tiny.save(Path(checkpoint)), tiny.hidden, tiny.longest)
        architecture = architecture_of(Path(checkpoint), card)
        (recorded,), (model,) = models_of(architecture, card, Path(checkpoint), "tensorrt", "fp32")
        texts = Encodings.from_lists([row for rows in batches for row in rows])
        islands = find_islands(model, record_maxima(recorded, model, Path(checkpoint), texts), precision)
        (emission,), _ = models_of(
            architecture, card, folder, "cuda", precision, islands if precision != "fp32" else frozenset()
        )
    for index, rows in enumerate(batches):
        feeds = make_feeds(tuple(emission.graph.inputs), emission.feeds, Encodings.from_lists(rows))
        np.savez_compressed(folder / f"batch{index}.npz", expected=parity.huggingface(rows), **feeds)
    tolerance = TOLERANCES[precision]
    facts = {"min_cosine": tolerance.min_cosine, "max_abs": tolerance.max_abs, "islands": sorted(islands)}
    (folder / "case.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
