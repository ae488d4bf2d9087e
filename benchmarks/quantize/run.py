"""Accuracy, batch dependence and speed of recipes, against float32.

    python benchmarks/quantize/run.py ARTIFACT --recipes int8-per-token mixed w4 [--seconds 60] [--pairs FILE] [--json FILE]

Speed is that of MLAS on one thread: tokens per second relative to float32, the median over rounds in which all recipes
run one after the other. Accuracy is that of `fletcher.quantize` on its built-in texts. With `--pairs`, a file of
`score<TAB>text<TAB>text` lines, the benchmark also reports Spearman's rank correlation with the scores, times 100.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from fletcher.quantize.measure.metrics import cosines
from fletcher.quantize.measure.pairs import agreement, read_pairs
from fletcher.quantize.measure.parent_comparison import embed_texts
from fletcher.quantize.measure.texts import built_in_texts
from fletcher.quantize.quantized_artifact import NUM_TEXTS, quantize
from fletcher.quantize.recipe import builtin_recipes, load_recipe
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.encodings import Encodings
from fletcher.runtime.errors import FletcherError
from fletcher.runtime.providers.mlas.session import MlasSession
from fletcher.runtime.tokenizing.tokenizer import Tokenizer

SHAPES = ((1, 16), (32, 24), (8, 128))


def batch(ids: np.ndarray, texts: int, tokens: int) -> Encodings:
    """Return a batch of texts of equal length, cut from real ids."""
    flat = np.resize(ids, texts * tokens)
    return Encodings(flat, np.arange(texts + 1, dtype=np.int64) * tokens, np.zeros(texts, np.int32))


def dependence(artifact: Artifact, texts: list[str]) -> float:
    """Return 1 - the smallest cosine between a text alone and the same text among all others."""
    variant = artifact.variant()
    together = embed_texts(artifact, variant, texts)
    alone = np.concatenate([embed_texts(artifact, variant, [text]) for text in texts[:8]])
    return float(1 - cosines(alone.astype(np.float64), together[:8].astype(np.float64)).min())


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--recipes", nargs="+", default=sorted(builtin_recipes()))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--work", type=Path, help="folder that keeps the artifacts; existing ones are used")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--pairs", type=Path, help="pairs with similarity scores")
    parser.add_argument("--accuracy-only", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        results = measure(arguments, arguments.work or Path(scratch))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


def measure(arguments: argparse.Namespace, work: Path) -> dict[str, dict[str, float]]:
    """Make and measure the artifacts, print the figures, and return them by recipe."""
    work.mkdir(parents=True, exist_ok=True)
    parent = Artifact.open(arguments.artifact)
    texts = built_in_texts(NUM_TEXTS)
    pairs = None if arguments.pairs is None else read_pairs(arguments.pairs)
    results: dict[str, dict[str, float]] = {}
    artifacts = {"fp32": parent}
    for name in arguments.recipes:
        recipe = load_recipe(name)
        folder = work / recipe.name
        try:
            if not folder.exists():
                quantize(parent, folder, recipe)
        except FletcherError as error:
            print(f"{name}: {error}")
            continue
        artifacts[recipe.name] = Artifact.open(folder)
    sizes = {
        name: sum(artifact.manifest.files[file].size for file in (artifact.variant().file, artifact.variant().weights))
        for name, artifact in artifacts.items()
    }
    for name, artifact in artifacts.items():
        results[name] = dict(artifact.variant().measured) | {"size": sizes[name] / sizes["fp32"]}
        results[name]["batch_dependence"] = dependence(artifact, texts[:32])
        if pairs is not None:
            sides = [embed_texts(artifact, artifact.variant(), side) for side in (pairs.first, pairs.second)]
            results[name]["spearman"] = 100 * agreement(pairs, *sides)
    if not arguments.accuracy_only:
        speeds(artifacts, arguments.seconds, results)
    for name, figures in results.items():
        print(f"{name:20}", "  ".join(f"{key} {value:.5g}" for key, value in figures.items()))
    return results


def speeds(artifacts: dict[str, Artifact], seconds: float, results: dict[str, dict[str, float]]) -> None:
    """Measure the speed of all artifacts in turns, and add it to `results`."""
    parent = artifacts["fp32"]
    ids = Tokenizer(parent.tokenizer_file, parent.manifest.card.max_tokens).encode(built_in_texts(NUM_TEXTS)[:100]).ids
    sessions = {
        name: MlasSession(artifact.path / artifact.variant().file, threads=1) for name, artifact in artifacts.items()
    }
    for texts, tokens in SHAPES:
        rows = batch(ids, texts, tokens)
        taken: dict[str, list[float]] = {name: [] for name in sessions}
        for session in sessions.values():
            session.run(rows)
        end = time.perf_counter() + seconds / len(SHAPES)
        while time.perf_counter() < end:
            for name, session in sessions.items():
                started = time.perf_counter()
                session.run(rows)
                taken[name].append(time.perf_counter() - started)
        for name, times in taken.items():
            ratios = [base / own for base, own in zip(taken["fp32"], times, strict=True)]
            results[name][f"speed {texts}x{tokens}"] = statistics.median(ratios)


if __name__ == "__main__":
    main()
