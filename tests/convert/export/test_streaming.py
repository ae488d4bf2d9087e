"""Private memory of a conversion: it does not grow with the model. The weights are holes in a file, which take no disk."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fletcher.runtime import Artifact

from .sparse import run_watched, save_sparse

_EXPORT = """
from fletcher.convert.export.export import export
export(sys.argv[1], sys.argv[2], pooling="mean", targets=sys.argv[3:4], precisions=sys.argv[4:5])
"""


@pytest.mark.parametrize("variant", [("cuda", "bf16"), pytest.param(("cpu", "fp32"), marks=pytest.mark.slow)])
def test_a_large_table_is_never_whole_in_memory(tmp_path: Path, variant: tuple[str, str]) -> None:
    size = save_sparse(tmp_path / "source", hidden=256, layers=1, rows=300_000)  # 154 MB, 307 MB in float32
    memory, _ = run_watched(_EXPORT, tmp_path / "source", tmp_path / "artifact", *variant)
    assert memory < 250_000_000
    (written,) = Artifact.open(tmp_path / "artifact").manifest.variants
    weights = tmp_path / "artifact" / written.weights
    assert abs(weights.stat().st_size - size * (2 if written.precision == "fp32" else 1)) < 1_000_000


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("variant", [("cpu", "fp32"), ("cpu", "bf16"), ("cuda", "fp16"), ("cuda", "bf16")])
def test_gigabytes_are_converted_within_600_mb(tmp_path: Path, variant: tuple[str, str]) -> None:
    """The artifact has 3.2 GB, half of it in a half type; the largest matrix has 67 MB in float32, the table of words 820 MB.

    Canary and maxima need weights in float32, of which nothing is on the disk.
    """
    save_sparse(tmp_path / "source", hidden=2048, layers=12, rows=100_000)
    memory, disk = run_watched(_EXPORT, tmp_path / "source", tmp_path / "artifact", *variant)
    assert memory < 600_000_000
    assert disk <= sum(file.stat().st_size for file in (tmp_path / "artifact").iterdir()) + 1_000_000
    shutil.rmtree(tmp_path / "artifact")
