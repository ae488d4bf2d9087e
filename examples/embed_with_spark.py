"""Embed Parquet files with Spark: python embed_with_spark.py ARTIFACT INPUT OUTPUT.

INPUT has a column `text`, which is embedded; OUTPUT is a folder. Every executor must be able to read the artifact.
"""

from __future__ import annotations

import sys

from pyspark.sql import SparkSession
from pyspark.sql.types import ArrayType, FloatType, StructType

from fletcher.integrations.arrow import TableEmbedder


def main() -> None:
    artifact, source, sink = sys.argv[1:4]
    spark = SparkSession.builder.appName("embed").getOrCreate()
    texts = spark.read.parquet(source)
    schema = StructType([*texts.schema.fields]).add("vector", ArrayType(FloatType()))
    texts.mapInArrow(TableEmbedder(artifact).lists, schema).write.parquet(sink)
    spark.stop()


if __name__ == "__main__":
    main()
