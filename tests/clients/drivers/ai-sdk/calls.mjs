// Calls of Vercel's AI SDK.
import { createCohere } from "@ai-sdk/cohere";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { createVoyage } from "@ai-sdk/voyage";
import { embed, embedMany, rerank } from "ai";
import { DOCUMENTS, QUERY, TEXTS, call, report } from "./harness.mjs";

const fletcher = createOpenAICompatible({ name: "fletcher", baseURL: "http://localhost:8080/v1", apiKey: "none" });
const cohere = createCohere({ baseURL: "http://localhost:8080/v2", apiKey: "none" });
const voyage = createVoyage({ baseURL: "http://localhost:8080/v1", apiKey: "none" });

const ranks = (answer) => answer.ranking.map((result) => [result.originalIndex, result.score]);

await call("openai-compatible: embed", "vectors of one text", async () => [
  (await embed({ model: fletcher.embeddingModel("minilm"), value: TEXTS[0] })).embedding,
]);
await call("openai-compatible: embedMany", "vectors", async () =>
  (await embedMany({ model: fletcher.embeddingModel("minilm"), values: TEXTS })).embeddings,
);
await call("cohere: embedMany", "vectors", async () =>
  (await embedMany({ model: cohere.embeddingModel("minilm"), values: TEXTS, providerOptions: { cohere: { inputType: "search_document" } } }))
    .embeddings,
);
await call("cohere: embedMany of queries", "query", async () =>
  (await embedMany({ model: cohere.embeddingModel("prompted"), values: TEXTS, providerOptions: { cohere: { inputType: "search_query" } } }))
    .embeddings,
);
await call("cohere: rerank", "ranking", async () =>
  ranks(await rerank({ model: cohere.reranking("reranker"), query: QUERY, documents: DOCUMENTS })),
);
await call("cohere: rerank, topN: 3", "ranking of 3", async () =>
  ranks(await rerank({ model: cohere.reranking("reranker"), query: QUERY, documents: DOCUMENTS, topN: 3 })),
);
await call("voyage: embedMany", "vectors", async () =>
  (await embedMany({ model: voyage.embeddingModel("minilm"), values: TEXTS })).embeddings,
);
await call("voyage: rerank", "ranking", async () =>
  ranks(await rerank({ model: voyage.reranking("reranker"), query: QUERY, documents: DOCUMENTS })),
);

report();
