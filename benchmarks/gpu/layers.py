"""`model verify --layers --against cpu-fp32 --on …` of every family on a GPU host, which needs no package index and no torch.

    python -m benchmarks.gpu.layers prepare .carry/layers     in the repository's root, where torch and transformers are
    python -m benchmarks.gpu.layers run .carry/layers         on the GPU host

The first writes an artifact a family (tests/convert/layers/models.py, and JinaBERT), for cpu and cuda in every precision. The
second compares each cuda variant with `cpu-fp32` at every point, the served session included, and prints a line for each;
exit status 1 where one differs. `--on cpu-fp16` tries that without a GPU.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fletcher.convert.export.export import export
from fletcher.convert.layers.verify import compare_variants

PRECISIONS = ("fp32", "fp16", "bf16")
VARIANTS = tuple(f"cuda-{precision}" for precision in PRECISIONS)
#: Longest texts of the artifacts.
MAX_TOKENS = 96


def prepare(output: Path) -> None:
    """Writes the artifacts."""
    from tests.convert.families.test_jina_bert import HIDDEN, VOCABULARY, Jina
    from tests.convert.layers.models import MODELS, export_mean, save_artifact
    from tests.convert.verify.parity import save_tokenizer

    shutil.rmtree(output, ignore_errors=True)
    for family in (*MODELS, "jina_bert"):
        with tempfile.TemporaryDirectory() as scratch:
            checkpoint = Path(scratch) / "checkpoint"
            if family == "jina_bert":
                Jina(8, max_position_embeddings=100).save(checkpoint)
                save_tokenizer(checkpoint, VOCABULARY)
                export_mean(checkpoint, HIDDEN)
            else:
                save_artifact(family, Path(scratch))
            export(
                str(checkpoint),
                output / family,
                targets=("cpu", "cuda"),
                precisions=PRECISIONS,
                max_tokens=MAX_TOKENS,
            )


def run(folder: Path, variants: Sequence[str]) -> bool:
    """Compares, and prints; whether all agree."""
    agreed = True
    for artifact in sorted(folder.iterdir()):
        for variant in variants:
            report = compare_variants(artifact, against="cpu-fp32", on=variant)
            served = any(point.section == "session" for point in report.points)
            told = "" if report.first is None else f", first at {report.first.point} ({report.first.node})"
            session = "served session too" if served else "served session not compared"
            print(
                f"{artifact.name} {variant}: {report.verdict}, {len(report.points)} points, {session}{told}", flush=True
            )
            agreed = agreed and served and report.first is None
    return agreed


def main() -> int:
    """Either of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("prepare", "run"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--on", action="append", help=f"a variant; by default {', '.join(VARIANTS)}")
    args = parser.parse_args()
    if args.what == "prepare":
        prepare(args.folder)
        return 0
    return 0 if run(args.folder, args.on or VARIANTS) else 1


if __name__ == "__main__":
    sys.exit(main())
