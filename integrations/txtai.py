"""txtai's vectors, by a model in this process or by a server.

Embeddings(path="minilm", method="fletcher.integrations.txtai.FletcherVectors")
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from txtai.vectors import Vectors

from .model import Model, open_model

__all__ = ["FletcherVectors"]


class FletcherVectors(Vectors):
    """Vectors of documents, and of queries with the model's own prompt for queries.

    `path` of txtai's configuration is an artifact, a name or the address of a server; `vectors` may have `name` and `api_key`
    for a server.
    """

    def loadmodel(self, path: str) -> Model:
        """Open the model of the configuration.

        Raises:
            FletcherError: the model cannot be loaded.
        """
        return open_model(path, **self.config.get("vectors", {}))

    def encode(self, data: Sequence[str], category: str | None = None) -> NDArray[np.float32]:
        """Return the vectors of texts, float32, (n, dimension).

        Args:
            data: texts.
            category: `query`, or another word for documents.
        """
        vectors: NDArray[np.float32] = self.model.embed(list(data), "query" if category == "query" else "document")
        return vectors
