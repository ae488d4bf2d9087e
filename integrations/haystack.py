"""Haystack's components for embedding and ranking, by a model in this process or by a server."""

# Haystack 2 compares the annotations of `run`, so they are not left as text by `from __future__ import annotations`.

from dataclasses import replace
from typing import Any

from haystack import Document, component, default_from_dict, default_to_dict
from haystack.utils import Secret

from fletcher.runtime import LoadOptions
from fletcher.runtime.errors import InputError

from .model import Model, Source, open_model
from .ranking import best

__all__ = ["FletcherDocumentEmbedder", "FletcherRanker", "FletcherTextEmbedder"]


class _Served:
    """The model of a component, opened by `warm_up` or by the first run."""

    def __init__(self, model: Source, name: str | None, api_key: Secret | None, load: LoadOptions | None) -> None:
        self._model = model
        self._name = name
        self._api_key = api_key
        self._load = load
        self._opened: Model | None = None

    def open(self) -> Model:
        """Return the model, and open it if it is not open.

        Raises:
            FletcherError: the model cannot be loaded.
        """
        if self._opened is None:
            key = None if self._api_key is None else self._api_key.resolve_value()
            self._opened = open_model(self._model, name=self._name, api_key=key, load=self._load)
        return self._opened

    def fields(self) -> dict[str, Any]:
        """Return the arguments of the constructor for a saved pipeline.

        Raises:
            InputError: an argument cannot be saved.
        """
        if hasattr(self._model, "embed") or self._load is not None:
            raise InputError(
                "a pipeline is saved with the folder, name or address of its model: pass one, without `load`"
            )
        return {"model": str(self._model), "name": self._name, "api_key": self._api_key}


@component
class FletcherTextEmbedder:
    """The vector of a query."""

    def __init__(
        self,
        model: Source,
        *,
        name: str | None = None,
        api_key: Secret | None = None,
        load: LoadOptions | None = None,
    ) -> None:
        """Keep the source; nothing is loaded.

        Args:
            model: an artifact, a name, the address of a server or a loaded `Encoder`; see `open_model`.
            name: name of a served model.
            api_key: key of the server.
            load: options of loading. A pipeline with them cannot be saved.
        """
        self._served = _Served(model, name, api_key, load)

    def warm_up(self) -> None:
        """Open the model, if it is not open.

        Raises:
            FletcherError: the model cannot be loaded.
        """
        self._served.open()

    def to_dict(self) -> dict[str, Any]:
        """Return the component for a saved pipeline."""
        return dict(default_to_dict(self, **self._served.fields()))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "FletcherTextEmbedder":
        """Make the component of a saved pipeline."""
        made: FletcherTextEmbedder = default_from_dict(cls, data)
        return made

    @component.output_types(embedding=list[float], meta=dict[str, Any])
    def run(self, text: str) -> dict[str, Any]:
        """Return the vector of a query, and the name of the model in `meta`.

        Raises:
            FletcherError: the text is not a string, or the model fails.
        """
        if not isinstance(text, str):
            raise InputError("FletcherTextEmbedder takes one text: use FletcherDocumentEmbedder for documents")
        model = self._served.open()
        return {"embedding": model.embed([text], "query")[0].tolist(), "meta": {"model": model.name}}


@component
class FletcherDocumentEmbedder:
    """Documents with their vectors.

    Attributes:
        meta_fields_to_embed: fields of a document's `meta` that are put before its text.
        embedding_separator: text between them.
    """

    def __init__(
        self,
        model: Source,
        *,
        name: str | None = None,
        api_key: Secret | None = None,
        load: LoadOptions | None = None,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
    ) -> None:
        """Keep the source; nothing is loaded.

        Args:
            model, name, api_key, load: as for `FletcherTextEmbedder`.
            meta_fields_to_embed: fields of a document's `meta` that are put before its text.
            embedding_separator: text between them.
        """
        self._served = _Served(model, name, api_key, load)
        self.meta_fields_to_embed = list(meta_fields_to_embed or [])
        self.embedding_separator = embedding_separator

    def warm_up(self) -> None:
        """Open the model, if it is not open.

        Raises:
            FletcherError: the model cannot be loaded.
        """
        self._served.open()

    def to_dict(self) -> dict[str, Any]:
        """Return the component for a saved pipeline."""
        own = {"meta_fields_to_embed": self.meta_fields_to_embed, "embedding_separator": self.embedding_separator}
        return dict(default_to_dict(self, **self._served.fields(), **own))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "FletcherDocumentEmbedder":
        """Make the component of a saved pipeline."""
        made: FletcherDocumentEmbedder = default_from_dict(cls, data)
        return made

    @component.output_types(documents=list[Document], meta=dict[str, Any])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """Return copies of documents with their vectors, and the name of the model in `meta`.

        Raises:
            FletcherError: the inputs are not documents, or the model fails.
        """
        if not isinstance(documents, list) or not all(isinstance(document, Document) for document in documents):
            raise InputError("FletcherDocumentEmbedder takes a list of documents: use FletcherTextEmbedder for a text")
        model = self._served.open()
        vectors = model.embed([self._text(document) for document in documents], "document").tolist()
        made = [replace(document, embedding=vector) for document, vector in zip(documents, vectors, strict=True)]
        return {"documents": made, "meta": {"model": model.name}}

    def _text(self, document: Document) -> str:
        values = [document.meta.get(field) for field in self.meta_fields_to_embed]
        parts = [str(value) for value in values if value is not None]
        return self.embedding_separator.join([*parts, document.content or ""])


@component
class FletcherRanker:
    """Documents in the order of a reranker's scores.

    Attributes:
        top_k: number of documents that are kept.
    """

    def __init__(
        self,
        model: Source,
        *,
        name: str | None = None,
        api_key: Secret | None = None,
        load: LoadOptions | None = None,
        top_k: int = 10,
    ) -> None:
        """Keep the source; nothing is loaded.

        Args:
            model, name, api_key, load: as for `FletcherTextEmbedder`; the model is a reranker.
            top_k: number of documents that are kept.

        Raises:
            InputError: `top_k` is not positive.
        """
        self._served = _Served(model, name, api_key, load)
        self.top_k = _positive(top_k)

    def warm_up(self) -> None:
        """Open the model, if it is not open.

        Raises:
            FletcherError: the model cannot be loaded.
        """
        self._served.open()

    def to_dict(self) -> dict[str, Any]:
        """Return the component for a saved pipeline."""
        return dict(default_to_dict(self, **self._served.fields(), top_k=self.top_k))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "FletcherRanker":
        """Make the component of a saved pipeline."""
        made: FletcherRanker = default_from_dict(cls, data)
        return made

    @component.output_types(documents=list[Document])
    def run(self, query: str, documents: list[Document], top_k: int | None = None) -> dict[str, Any]:
        """Return copies of the best documents with their scores, best first.

        Args:
            query: the query.
            documents: any number of documents.
            top_k: number of documents that are kept. Default: that of the component.

        Raises:
            FletcherError: the model is not a reranker, or it fails.
        """
        kept = self.top_k if top_k is None else _positive(top_k)
        scores = self._served.open().score(query, [document.content or "" for document in documents])
        made = [replace(documents[index], score=float(scores[index])) for index in best(scores, kept)]
        return {"documents": made}


def _positive(top_k: int) -> int:
    if top_k < 1:
        raise InputError(f"top_k is {top_k}: it must be at least 1")
    return top_k
