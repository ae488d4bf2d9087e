"""LangChain's `Embeddings` and document compressor, by a model in this process or by a server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.embeddings import Embeddings
from pydantic import PrivateAttr

from fletcher.runtime import LoadOptions

from .model import Model, Source, open_model
from .ranking import best

__all__ = ["FletcherEmbeddings", "FletcherRerank"]


class FletcherEmbeddings(Embeddings):
    """Embeddings of texts as queries or as documents, each with the model's own prompt.

    Attributes:
        model: the opened model.
    """

    def __init__(
        self, model: Source, *, name: str | None = None, api_key: str | None = None, load: LoadOptions | None = None
    ) -> None:
        """Open a model.

        Args:
            model: an artifact, a name, the address of a server or a loaded `Encoder`; see `open_model`.
            name: name of a served model.
            api_key: key of the server.
            load: options of loading.

        Raises:
            FletcherError: the model cannot be loaded.
        """
        self.model: Model = open_model(model, name=name, api_key=api_key, load=load)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return the vectors of documents."""
        return list(self.model.embed(texts, "document").tolist())

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a query."""
        return list(self.model.embed([text], "query")[0].tolist())


class FletcherRerank(BaseDocumentCompressor):
    """Documents in the order of a reranker's scores, each with its score in `metadata["relevance_score"]`.

    Attributes:
        top_n: number of documents that are kept; None keeps all.
    """

    top_n: int | None = 3
    _model: Model = PrivateAttr()

    def __init__(
        self,
        model: Source,
        *,
        top_n: int | None = 3,
        name: str | None = None,
        api_key: str | None = None,
        load: LoadOptions | None = None,
    ) -> None:
        """Open a reranker.

        Args:
            model: as for `FletcherEmbeddings`.
            top_n: number of documents that are kept; None keeps all.
            name, api_key, load: as for `FletcherEmbeddings`.

        Raises:
            FletcherError: the model cannot be loaded.
        """
        values: dict[str, Any] = {"top_n": top_n}
        super().__init__(**values)
        self._model = open_model(model, name=name, api_key=api_key, load=load)

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """Return copies of the best documents, best first.

        Raises:
            InputError: the model is not a reranker.
        """
        scores = self._model.score(query, [document.page_content for document in documents])
        return [
            documents[index].model_copy(
                update={"metadata": documents[index].metadata | {"relevance_score": float(scores[index])}}
            )
            for index in best(scores, self.top_n)
        ]
