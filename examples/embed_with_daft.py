"""Embed Parquet files with Daft: python embed_with_daft.py ARTIFACT INPUT OUTPUT.

INPUT has a column `text`, which is embedded; OUTPUT is a folder.
"""

from __future__ import annotations

import sys

import daft
import pyarrow as pa

from fletcher.integrations.arrow import TableEmbedder


def main() -> None:
    artifact, source, sink = sys.argv[1:4]
    embedder = TableEmbedder(artifact)
    kind = daft.DataType.fixed_size_list(daft.DataType.float32(), embedder.encoder.dimension)

    @daft.func.batch(return_dtype=kind, batch_size=4096)
    def embed(texts: daft.Series) -> pa.Array:
        return embedder(pa.table({"text": texts.to_arrow()}))["vector"].combine_chunks()

    texts = daft.read_parquet(source)
    texts.with_column("vector", embed(texts["text"])).write_parquet(sink)


if __name__ == "__main__":
    main()
