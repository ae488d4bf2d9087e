"""`check`: a run of an example that embeds Parquet files, and the comparison of its output with the right vectors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..conftest import TEXTS, Tiny, close

__all__ = ["check"]

EXAMPLES = Path(__file__).parents[3] / "examples"

#: Rows of each of the two input files.
ROWS = 3000


def check(program: str, tiny: Tiny, folder: Path) -> None:
    """Run an example on two files, and compare the vector of each row.

    Args:
        program: file of the example.
        tiny: the model and the right vectors.
        folder: an empty folder.
    """
    source = folder / "input"
    source.mkdir()
    for part in range(2):
        ids = range(part * ROWS, (part + 1) * ROWS)
        pq.write_table(pa.table({"id": ids, "text": [TEXTS[row % 3] for row in ids]}), source / f"{part}.parquet")
    command = [sys.executable, str(EXAMPLES / program), str(tiny.embedder), str(source), str(folder / "output")]
    variables = {"RAY_USAGE_STATS_ENABLED": "0", "DAFT_ANALYTICS_ENABLED": "0", "PYSPARK_PYTHON": sys.executable}
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    made = pa.concat_tables([pq.read_table(file) for file in (folder / "output").glob("**/*.parquet")])
    made = made.sort_by("id")
    assert made["id"].to_pylist() == list(range(2 * ROWS))
    assert made["text"].to_pylist() == [TEXTS[row % 3] for row in range(2 * ROWS)]
    assert made["vector"].type.value_type == pa.float32()
    close(np.array(made["vector"].to_pylist()), np.tile(tiny.documents, (2 * ROWS // 3, 1)))
