"""LlamaIndex's embedding and node postprocessor, by a model in this process or by a server."""

from __future__ import annotations

import asyncio
from typing import Any

from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.embeddings import BaseEmbedding
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle

from fletcher.runtime import LoadOptions
from fletcher.runtime.errors import InputError

from .model import Model, Source, open_model
from .ranking import best

__all__ = ["FletcherEmbedding", "FletcherRerank"]


class FletcherEmbedding(BaseEmbedding):
    """Embeddings of texts as queries or as documents, each with the model's own prompt.

    Attributes:
        source: the model, as it was given; the name of the card if it was a loaded one.
    """

    source: str = Field(description="Artifact, name of a model, or address of a server.")
    _model: Model = PrivateAttr()

    def __init__(
        self,
        source: Source,
        *,
        name: str | None = None,
        api_key: str | None = None,
        load: LoadOptions | None = None,
        **fields: Any,
    ) -> None:
        """Open a model.

        Args:
            source: an artifact, a name, the address of a server or a loaded `Encoder`; see `open_model`.
            name: name of a served model.
            api_key: key of the server.
            load: options of loading.
            fields: LlamaIndex's own fields, such as `embed_batch_size`.

        Raises:
            FletcherError: the model cannot be loaded, or the server cannot be reached.
        """
        model = open_model(source, name=name, api_key=api_key, load=load)
        fields.setdefault("model_name", model.name)
        super().__init__(source=_shown(source, model), **fields)
        self._model = model

    @classmethod
    def class_name(cls) -> str:
        """Return the name of the class in serialized pipelines."""
        return "FletcherEmbedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        return list(self._model.embed([query], "query")[0].tolist())

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return list(self._model.embed(texts, "document").tolist())

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)


class FletcherRerank(BaseNodePostprocessor):
    """Nodes in the order of a reranker's scores, which replace the scores of the retrieval.

    Attributes:
        source: the model, as it was given; the name of the card if it was a loaded one.
        top_n: number of nodes that are kept.
    """

    source: str = Field(description="Artifact, name of a model, or address of a server.")
    top_n: int = Field(default=2, description="Number of nodes that are kept.", gt=0)
    _model: Model = PrivateAttr()

    def __init__(
        self,
        source: Source,
        *,
        top_n: int = 2,
        name: str | None = None,
        api_key: str | None = None,
        load: LoadOptions | None = None,
        **fields: Any,
    ) -> None:
        """Open a reranker.

        Args:
            source: as for `FletcherEmbedding`.
            top_n: number of nodes that are kept.
            name, api_key, load: as for `FletcherEmbedding`.
            fields: LlamaIndex's own fields, such as `callback_manager`.

        Raises:
            FletcherError: the model cannot be loaded.
        """
        model = open_model(source, name=name, api_key=api_key, load=load)
        super().__init__(source=_shown(source, model), top_n=top_n, **fields)
        self._model = model

    @classmethod
    def class_name(cls) -> str:
        """Return the name of the class in serialized pipelines."""
        return "FletcherRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise InputError("a reranker needs the query: pass query_str or query_bundle")
        texts = [node.node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]
        scores = self._model.score(query_bundle.query_str, texts)
        return [NodeWithScore(node=nodes[index].node, score=float(scores[index])) for index in best(scores, self.top_n)]


def _shown(source: Source, model: Model) -> str:
    """Return a source as text, from which a pipeline that was saved can open it again."""
    return str(source) if not hasattr(source, "embed") else model.name
