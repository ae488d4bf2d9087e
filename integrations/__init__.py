"""Fletcher's models inside the frameworks of other projects. Each module needs the framework that it is named after.

| module | has |
|---|---|
| `sentence_transformers` | `SentenceTransformer` with `encode` and `similarity`, for scripts that change one import |
| `langchain` | `FletcherEmbeddings`, `FletcherRerank` |
| `llama_index` | `FletcherEmbedding`, `FletcherRerank` |
| `haystack` | `FletcherTextEmbedder`, `FletcherDocumentEmbedder`, `FletcherRanker` |
| `chroma` | `FletcherEmbeddingFunction` |
| `duckdb`, `polars` | functions and expressions from texts to vectors |
| `arrow` | `TableEmbedder`, a callable from an Arrow table to an Arrow table, for Ray Data, Spark and Daft |
| `model` | `open_model`, which all of them use: an artifact, a checkpoint or the address of a server |

`model` and `artifacts` need none of the frameworks.
"""
