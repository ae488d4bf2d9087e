"""Time of `fletcher-convert quality` beyond the embedding, time of the search for neighbors, and loss by centered PCA.

    python benchmarks/quality/run.py report ARTIFACT [--texts 20000]     goal: 60 s beyond the embedding, with the map
    python benchmarks/quality/run.py neighbors [--vectors 20000]         NumPy, and faiss and usearch if they are installed
    python benchmarks/quality/run.py pca ARTIFACT [--texts 3000]         neighbors that PCA keeps with and without the mean

The texts are docstrings of Python's standard library; beyond about 15,000 they repeat with a number in front.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fletcher.convert.quality.inputs import Corpus, QualityTexts, make_texts
from fletcher.convert.quality.measures.compression import neighbors_kept
from fletcher.convert.quality.options import QualityOptions
from fletcher.convert.quality.quality import measure_quality
from fletcher.quantize.measure.retrieval import nearest
from fletcher.runtime import Encoder
from fletcher.runtime.corpora import corpus
from fletcher.runtime.tasks.postprocess import normalize

Vectors = NDArray[np.float32]


def texts_of(count: int) -> QualityTexts:
    """Return texts with labels (the length in letters by class) and queries that are first lines of some of the texts."""
    texts = tuple(corpus("docstrings", count))
    labels = tuple(str(min(len(text).bit_length(), 9)) for text in texts)
    ids = tuple(str(row) for row in range(count))
    asked = range(0, count, max(1, count // 200))
    lines = tuple(texts[row].split("\n")[0] for row in asked)
    queries = Corpus(tuple(ids[row] for row in asked), lines, (None,) * len(lines))
    judgments = {ids[row]: {ids[row]: 1} for row in asked}
    return make_texts(Corpus(ids, texts, labels), name="docstrings", queries=queries, judgments=judgments)


def time_report(artifact: Path, count: int) -> None:
    """Print the seconds of a report with labels, queries and the map."""
    report = measure_quality(artifact, texts_of(count), QualityOptions(with_map=True)).report
    print(f"{count:,} texts: embedding {report.embedding_seconds:.1f} s, measures {report.seconds:.1f} s")


def time_neighbors(count: int) -> None:
    """Print the seconds of an exact search for the ten nearest neighbors of random vectors of 384 dimensions."""
    unit = normalize(np.random.default_rng(0).standard_normal((count, 384), dtype=np.float32))

    def by_faiss() -> None:
        import faiss  # type: ignore[import-not-found]

        index = faiss.IndexFlatIP(unit.shape[1])
        index.add(unit)
        index.search(unit, 11)

    def by_usearch() -> None:
        from usearch.index import MetricKind, search  # type: ignore[import-not-found]

        search(unit, unit, 11, MetricKind.IP, exact=True)

    searches: dict[str, Callable[[], object]] = {
        "NumPy": lambda: nearest(unit, unit, 10, np.arange(len(unit))),
        "faiss": by_faiss,
        "usearch": by_usearch,
    }
    for name, search in searches.items():
        started = time.perf_counter()
        try:
            search()
        except ImportError:
            print(f"{name}: not installed")
            continue
        print(f"{name}: {time.perf_counter() - started:.1f} s")


def compare_centering(artifact: Path, count: int) -> None:
    """Print the share of the ten neighbors that PCA keeps, fitted to every second text, with and without the mean."""
    from sklearn.decomposition import PCA

    with Encoder.load(artifact) as encoder:
        unit = normalize(encoder.embed(corpus("docstrings", count)).vectors)
    fitted, held = unit[::2].astype(np.float64), unit[1::2]
    for length in (256, 192, 128, 64):
        pca = PCA(length, svd_solver="covariance_eigh").fit(fitted)
        kept = [
            neighbors_kept(held, normalize((vectors @ pca.components_.T).astype(np.float32)))["float32"]
            for vectors in (held, held - pca.mean_)
        ]
        print(f"{length} dimensions: {kept[0]:.3f} as they are, {kept[1]:.3f} after subtraction of the mean")


def main() -> None:
    """Run the measurement that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("report", "neighbors", "pca"))
    parser.add_argument("artifact", type=Path, nargs="?")
    parser.add_argument("--texts", type=int)
    parser.add_argument("--vectors", type=int, default=20_000)
    options = parser.parse_args()
    if options.kind == "neighbors":
        time_neighbors(options.vectors)
    elif options.artifact is None:
        parser.error("name an artifact")
    elif options.kind == "report":
        time_report(options.artifact, options.texts or 20_000)
    else:
        compare_centering(options.artifact, options.texts or 3000)


if __name__ == "__main__":
    main()
