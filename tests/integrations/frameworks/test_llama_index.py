"""LlamaIndex: right values in this process and by a server, an index, a pipeline and a reranker."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("llama_index.core")

from llama_index.core import VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, TextNode

from fletcher import Encoder
from fletcher.integrations.llama_index import FletcherEmbedding, FletcherRerank
from fletcher.runtime.errors import InputError

from ...clients.reference import DOCUMENTS, QUERY
from ..conftest import LOAD, TEXTS, Tiny, close

pytestmark = pytest.mark.slow


def test_vectors_are_the_references(sources: dict[str, dict[str, Any]], tiny: Tiny) -> None:
    embedding = FletcherEmbedding(**sources["embedder"], embed_batch_size=2)
    close(embedding.get_text_embedding_batch(TEXTS), tiny.documents)
    close([embedding.get_text_embedding(text) for text in TEXTS], tiny.documents)
    close([embedding.get_query_embedding(text) for text in TEXTS], tiny.queries)
    close(asyncio.run(embedding.aget_text_embedding_batch(TEXTS)), tiny.documents)
    close(asyncio.run(embedding.aget_query_embedding(TEXTS[0])), tiny.queries[0])
    close(asyncio.run(embedding.aget_text_embedding(TEXTS[0])), tiny.documents[0])


def test_the_classes_are_those_of_llama_index(sources: dict[str, dict[str, Any]], tiny: Tiny) -> None:
    # The test that every package of LlamaIndex has: the base class is among the bases.
    assert BaseEmbedding.__name__ in [base.__name__ for base in FletcherEmbedding.__mro__]
    assert BaseNodePostprocessor.__name__ in [base.__name__ for base in FletcherRerank.__mro__]
    embedding = FletcherEmbedding(**sources["embedder"])
    saved = embedding.to_dict()
    assert saved["class_name"] == FletcherEmbedding.class_name()
    assert "api_key" not in str(saved)
    again = FletcherEmbedding.from_dict(saved)
    close(again.get_query_embedding(TEXTS[0]), tiny.queries[0])
    with Encoder.load(tiny.embedder, LOAD) as encoder:
        assert FletcherEmbedding(encoder).source == encoder.card.name


def test_an_index_and_a_pipeline_use_the_embedding(sources: dict[str, dict[str, Any]], tiny: Tiny) -> None:
    embedding = FletcherEmbedding(**sources["embedder"])
    nodes = [TextNode(text=text, id_=str(place)) for place, text in enumerate(TEXTS)]
    made = IngestionPipeline(transformations=[embedding]).run(nodes=nodes)
    close([node.embedding for node in made], tiny.documents)
    found = VectorStoreIndex(nodes, embed_model=embedding).as_retriever(similarity_top_k=3).retrieve(TEXTS[0])
    right = tiny.documents @ tiny.queries[0]
    assert [int(node.node_id) for node in found] == (-right).argsort().tolist()
    close([node.score for node in found], sorted(right, reverse=True))


def test_nodes_are_ranked(sources: dict[str, dict[str, Any]], tiny: Tiny) -> None:
    nodes = [NodeWithScore(node=TextNode(text=text, id_=str(place)), score=0.5) for place, text in enumerate(DOCUMENTS)]
    reranker = FletcherRerank(**sources["reranker"], top_n=3)
    for ranked in (
        reranker.postprocess_nodes(nodes, query_str=QUERY),
        asyncio.run(reranker.apostprocess_nodes(nodes, query_str=QUERY)),
    ):
        assert [int(node.node_id) for node in ranked] == tiny.order[:3]
        close([node.score for node in ranked], tiny.scores[tiny.order[:3]])
    assert [node.score for node in nodes] == [0.5] * 4
    assert reranker.postprocess_nodes([], query_str=QUERY) == []
    with pytest.raises(InputError, match="needs the query"):
        reranker.postprocess_nodes(nodes)
