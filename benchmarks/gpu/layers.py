"""Comparison of every family's cuda variants with `cpu-fp32`, layer by layer, on a GPU host without torch.

    python -m benchmarks.gpu.layers prepare FOLDER     in the repository's root, with torch and transformers
    python -m benchmarks.gpu.layers run FOLDER         on the GPU host

`prepare` writes one artifact per family (tests/convert/layers/models.py, and JinaBERT), for cpu and cuda in every
precision. `run` does for each cuda variant what `model verify --layers --against cpu-fp32 --on …` does: it compares the
variant at every point, the served session included, and prints a line. The exit status is 1 if a variant differs. `--on
cpu-fp16` needs no GPU.
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
#: Token limit of the artifacts.
MAX_TOKENS = 96


def prepare(output: Path) -> None:
    """Write the artifacts."""
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
    """Compare and print, and return whether all variants agree."""
    agreed = True
    for artifact in sorted(folder.iterdir()):
        for variant in variants:
            report = compare_variants(artifact, against="cpu-fp32", on=variant)
            served = any(point.section == "session" for point in report.points)
            difference = "" if report.first is None else f", first at {report.first.point} ({report.first.node})"
            session = "served session too" if served else "served session not compared"
            print(
                f"{artifact.name} {variant}: {report.verdict}, {len(report.points)} points, {session}{difference}",
                flush=True,
            )
            agreed = agreed and served and report.first is None
    return agreed


def main() -> int:
    """Run one of the two commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("prepare", "run"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--on", action="append", help=f"a variant. Default: {', '.join(VARIANTS)}.")
    args = parser.parse_args()
    if args.what == "prepare":
        prepare(args.folder)
        return 0
    return 0 if run(args.folder, args.on or VARIANTS) else 1


if __name__ == "__main__":
    sys.exit(main())
