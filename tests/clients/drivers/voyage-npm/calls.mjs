// Calls of Voyage's client for Node.
import { VoyageAIClient } from "voyageai";
import { DOCUMENTS, QUERY, TEXTS, call, report } from "./harness.mjs";

const client = new VoyageAIClient({ apiKey: "none", environment: "http://localhost:8080/v1" });

const vectors = (answer) => answer.data.map((item) => item.embedding);
const ranks = (answer) => answer.data.map((item) => [item.index, item.relevanceScore]);
const rerank = { model: "reranker", query: QUERY, documents: DOCUMENTS };

await call("embed", "vectors", async () => vectors(await client.embed({ model: "minilm", input: TEXTS })));
await call('embed, inputType: "query"', "query", async () =>
  vectors(await client.embed({ model: "prompted", input: TEXTS, inputType: "query" })),
);
await call("rerank", "ranking", async () => ranks(await client.rerank(rerank)));
await call("rerank, topK: 2, returnDocuments: true", "ranking of 2", async () =>
  ranks(await client.rerank({ ...rerank, topK: 2, returnDocuments: true, truncation: true })),
);

report();
