"""Private memory of a quantization: new weights wait in a file, and matrices are rounded some columns at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fletcher.convert.export.export import export
from fletcher.quantize import calibration, quantized_artifact
from fletcher.quantize.graph import rounding, spool
from fletcher.quantize.graph.editor import GraphEditor, write_graphs
from fletcher.quantize.graph.spool import Spool
from fletcher.quantize.measure import parent_comparison
from fletcher.quantize.quantized_artifact import quantize
from fletcher.runtime import Artifact
from fletcher.runtime.artifact.folder import MANIFEST
from fletcher.runtime.providers.mlas.graph import CpuGraph

from ..convert.export.sparse import run_watched, save_sparse
from ..runtime.peak import needs_proc

TEXTS = tuple(" ".join("abcdefg"[: 1 + number % 7]) for number in range(40))

_QUANTIZE = """
from fletcher.quantize.quantized_artifact import quantize
quantize(sys.argv[1], sys.argv[2], sys.argv[3], texts=["a b c d", "e f", "g", "h i j"] * 10)
"""


@pytest.mark.parametrize("recipe", ["w8", "int8-per-token", "bf16"])
def test_new_weights_wait_in_a_file(
    tmp_path: Path, tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    quantize(tiny_artifact, tmp_path / "memory", recipe, texts=TEXTS)
    kept: list[bool] = []

    def watch(editors: Mapping[Path, GraphEditor], *arguments: Any) -> Any:
        new = [values for editor in editors.values() for _, values in editor.external().values()]
        kept.extend(isinstance(values, np.memmap) for values in new)
        return write_graphs(editors, *arguments)

    monkeypatch.setattr(spool, "SMALLEST", 1)
    monkeypatch.setattr(quantized_artifact, "write_graphs", watch)
    quantize(tiny_artifact, tmp_path / "file", recipe, texts=TEXTS)
    assert kept and all(kept)
    files = [Artifact.open(tmp_path / name).manifest.files for name in ("memory", "file")]
    assert files[0] == files[1]
    Artifact.open(tmp_path / "file").check_files()
    assert {file.name for file in (tmp_path / "file").iterdir()} == {*files[1], MANIFEST}


def test_a_spool_gives_back_what_it_keeps(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    arrays = [
        random.integers(0, 255, (700, 1501), np.uint8),
        random.normal(size=(513, 600)),
        np.arange(6).reshape(2, 3).T,
    ]
    with Spool(tmp_path) as kept_in:
        kept = [kept_in.keep(array) for array in arrays]
        assert list(tmp_path.iterdir()) == []  # the file has no name
        for array, found in zip(arrays, kept, strict=True):
            np.testing.assert_array_equal(found, array)
            assert found.dtype == array.dtype and found.flags.c_contiguous
    assert [isinstance(array, np.memmap) for array in kept] == [True, True, False]


@pytest.mark.parametrize("search", [False, True])
def test_strips_of_columns_round_as_the_whole_matrix(monkeypatch: pytest.MonkeyPatch, search: bool) -> None:
    weight = np.random.default_rng(1).normal(size=(70, 33)).astype(np.float32)

    def round_all() -> list[Any]:
        columns, blocks = (
            rounding.round_columns(weight, search=search),
            rounding.round_blocks(weight, bits=4, block=32, asymmetric=True, search=search),
        )
        error = rounding.mean_error(np.arange(70, dtype=np.float32), weight, columns)
        parts = [columns.values, columns.scales, *rounding.round_rows(weight), error]
        return [*parts, blocks.values, blocks.scales, blocks.zeros]

    whole = round_all()
    monkeypatch.setattr(rounding, "STRIP", 70 * 4)
    for found, expected in zip(round_all(), whole, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12)


@needs_proc
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("recipe", ["w8", "w4", "int8-per-token"])
def test_a_gigabyte_is_quantized_within_600_mb(tmp_path: Path, recipe: str) -> None:
    """The parent has 1 GB in float32; its largest matrix has 16.8 MB, the table of words 410 MB."""
    save_sparse(tmp_path / "source", hidden=1024, layers=12, rows=100_000)
    export(str(tmp_path / "source"), tmp_path / "parent", pooling="mean")
    memory, _ = run_watched(_QUANTIZE, tmp_path / "parent", tmp_path / "artifact", recipe)
    assert memory < 600_000_000


@pytest.mark.parametrize("recipe", ["w8", "int8-per-token"])
def test_a_large_parent_copies_no_weights(
    tmp_path: Path, tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    """Calibration and comparison run on mapped weights, with the results of a session that copies them."""
    expected = quantize(tiny_artifact, tmp_path / "copied", recipe, texts=TEXTS)
    mapped: list[bool] = []

    def watch(*arguments: Any, **options: Any) -> CpuGraph:
        mapped.append(options.get("mapped", False))
        return CpuGraph(*arguments, **options)

    for module in (calibration, parent_comparison):
        monkeypatch.setattr(module, "LARGE", 0)
        monkeypatch.setattr(module, "CpuGraph", watch)
    found = quantize(tiny_artifact, tmp_path / "mapped", recipe, texts=TEXTS)
    assert mapped == [True] * (1 + (recipe == "int8-per-token"))  # the parent's vectors, and before it the calibration
    assert abs(found.cosine_min - expected.cosine_min) < 1e-5 and found.cosine_min > 0.99
