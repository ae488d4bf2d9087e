"""Chroma's embedding function, by a model in this process or by a server."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from chromadb.api.types import Documents, EmbeddingFunction, Embeddings, Space
from chromadb.utils.embedding_functions import register_embedding_function
from numpy.typing import NDArray

from fletcher.runtime import LoadOptions
from fletcher.runtime.errors import InputError

from .model import Model, Source, open_model

__all__ = ["FletcherEmbeddingFunction"]


@register_embedding_function
class FletcherEmbeddingFunction(EmbeddingFunction[Documents]):
    """Vectors of documents, and of queries with the model's own prompt for queries.

    A collection stores the source and opens it again in another process, if that process has imported this module.
    """

    def __init__(
        self,
        model: Source,
        name: str | None = None,
        api_key_env_var: str | None = None,
        load: LoadOptions | None = None,
    ) -> None:
        """Open a model.

        Args:
            model: an artifact, a name, the address of a server or a loaded `Encoder`; see `open_model`.
            name: name of a served model.
            api_key_env_var: environment variable with the key of the server. Chroma stores its name and not the key.
            load: options of loading, which Chroma does not store.

        Raises:
            FletcherError: the model cannot be loaded, or the environment variable is not set.
        """
        key = None if api_key_env_var is None else os.environ.get(api_key_env_var)
        if api_key_env_var is not None and not key:
            raise InputError(f"the environment variable {api_key_env_var} is not set: it has the key of the server")
        self._model: Model = open_model(model, name=name, api_key=key, load=load)
        shown = self._model.name if hasattr(model, "embed") else str(model)
        self._config = {"model": shown, "name": name, "api_key_env_var": api_key_env_var}

    def __call__(self, input: Documents) -> Embeddings:  # noqa: A002 (Chroma's name)
        """Return the vectors of documents."""
        return _rows(self._model.embed(list(input), "document"))

    def embed_query(self, input: Documents) -> Embeddings:  # noqa: A002 (Chroma's name)
        """Return the vectors of queries."""
        return _rows(self._model.embed(list(input), "query"))

    @staticmethod
    def name() -> str:
        """Return the name of the function in stored collections."""
        return "fletcher"

    def default_space(self) -> Space:
        """Return the distance of a new collection."""
        return "cosine"

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that a collection stores."""
        return dict(self._config)

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> FletcherEmbeddingFunction:
        """Open the model of a stored collection.

        Raises:
            FletcherError: the model cannot be loaded.
        """
        return FletcherEmbeddingFunction(**config)


def _rows(vectors: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    return list(vectors)
