"""Embed Parquet files with Ray Data: python embed_with_ray.py ARTIFACT INPUT OUTPUT.

INPUT is a file or a folder, whose column `text` is embedded; OUTPUT is a folder. Every node must be able to read the
artifact. `concurrency` is the number of models: the number of nodes, or with `num_gpus=1` the number of GPUs.
"""

from __future__ import annotations

import sys

import ray

from fletcher.integrations.arrow import TableEmbedder


def main() -> None:
    artifact, source, sink = sys.argv[1:4]
    texts = ray.data.read_parquet(source)
    vectors = texts.map_batches(
        TableEmbedder,
        fn_constructor_args=(artifact,),
        batch_format="pyarrow",
        batch_size=4096,
        concurrency=1,
    )
    vectors.write_parquet(sink)


if __name__ == "__main__":
    main()
