"""Mutants of real graphs: the check rejects them, or onnx's own parser finds nothing forbidden in them."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from fletcher.convert.export.export import export
from fletcher.runtime.artifact.folder import Artifact
from fletcher.runtime.artifact.graph.check import check_graph
from fletcher.runtime.artifact.manifest import Variant
from fletcher.runtime.errors import ArtifactError

from .harmless import assert_harmless
from .mutants import mutants

#: Seconds for the check of a small graph, however it is mutated.
LONGEST = 1.0


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> list[tuple[bytes, Variant, int]]:
    """Return graph, variant and size of the weights for every target."""
    path = tmp_path_factory.mktemp("targets") / "artifact"
    export(str(tiny_checkpoint), path, targets=("cpu", "cuda", "tensorrt", "coreml"))
    artifact = Artifact.open(path)
    files = artifact.manifest.files
    return [((path / each.file).read_bytes(), each, files[each.weights].size) for each in artifact.manifest.variants]


def fuzz(graphs: list[tuple[bytes, Variant, int]], seed: int, count: int) -> Counter[str]:
    results: Counter[str] = Counter()
    for number, (data, variant, size) in enumerate(graphs):
        for mutant in mutants(data, seed + number, count // len(graphs)):
            started = time.monotonic()
            try:
                check_graph(mutant, variant, size)
            except ArtifactError:
                results["rejected"] += 1
            else:
                results["accepted"] += 1
                assert_harmless(mutant, variant, size)
            assert time.monotonic() - started < LONGEST
    return results


def test_graphs_of_every_target_are_accepted(graphs: list[tuple[bytes, Variant, int]]) -> None:
    for data, variant, size in graphs:
        check_graph(data, variant, size)
        assert_harmless(data, variant, size)


def test_mutants_are_rejected_or_harmless(graphs: list[tuple[bytes, Variant, int]]) -> None:
    results = fuzz(graphs, 1, 500)
    assert results["rejected"] > 100 and results["accepted"] > 20, "the mutants do not reach the check"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_20_000_mutants_are_rejected_or_harmless(graphs: list[tuple[bytes, Variant, int]]) -> None:
    results = fuzz(graphs, 1000, 20_000)
    assert results.total() >= 19_990
