// Calls of Cohere's client for Node, of both versions of its API.
import { CohereClient, CohereClientV2 } from "cohere-ai";
import { DOCUMENTS, QUERY, TEXTS, call, report } from "./harness.mjs";

const client = new CohereClientV2({ token: "none", environment: "http://localhost:8080" });
const first = new CohereClient({ token: "none", environment: "http://localhost:8080" });

const ranks = (answer) => answer.results.map((result) => [result.index, result.relevanceScore]);
const embed = { texts: TEXTS, embeddingTypes: ["float"] };
const rerank = { model: "reranker", query: QUERY, documents: DOCUMENTS };

await call("CohereClientV2.embed", "vectors", async () =>
  (await client.embed({ model: "minilm", inputType: "search_document", ...embed })).embeddings.float,
);
await call('CohereClientV2.embed, inputType: "search_query"', "query", async () =>
  (await client.embed({ model: "prompted", inputType: "search_query", ...embed })).embeddings.float,
);
await call("CohereClientV2.rerank", "ranking", async () => ranks(await client.rerank(rerank)));
await call("CohereClientV2.rerank, topN: 2", "ranking of 2", async () => ranks(await client.rerank({ ...rerank, topN: 2 })));
await call("CohereClient.embed", "vectors", async () =>
  (await first.embed({ model: "minilm", texts: TEXTS, inputType: "search_document" })).embeddings,
);
await call("CohereClient.rerank, returnDocuments: true", "ranking", async () =>
  ranks(await first.rerank({ ...rerank, returnDocuments: true })),
);

report();
