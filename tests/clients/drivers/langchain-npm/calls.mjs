// Calls of LangChain's packages for Node.
import { CohereEmbeddings, CohereRerank } from "@langchain/cohere";
import { OllamaEmbeddings } from "@langchain/ollama";
import { OpenAIEmbeddings } from "@langchain/openai";
import { CohereClient } from "cohere-ai";
import { DOCUMENTS, QUERY, TEXTS, call, report } from "./harness.mjs";

const openai = new OpenAIEmbeddings({ model: "minilm", apiKey: "none", configuration: { baseURL: "http://localhost:8080/v1" } });
const ollama = new OllamaEmbeddings({ model: "minilm", baseUrl: "http://localhost:8080", headers: { Authorization: "Bearer none" } });
const client = new CohereClient({ token: "none", environment: "http://localhost:8080" });
const cohere = new CohereEmbeddings({ model: "minilm", client });
const queries = new CohereEmbeddings({ model: "prompted", inputType: "search_query", client });
const reranker = new CohereRerank({ model: "reranker", topN: 3, client });

await call("OpenAIEmbeddings.embedDocuments", "vectors", () => openai.embedDocuments(TEXTS));
await call("OpenAIEmbeddings.embedQuery", "vectors of one text", async () => [await openai.embedQuery(TEXTS[0])]);
await call("OllamaEmbeddings.embedDocuments", "vectors", () => ollama.embedDocuments(TEXTS));
await call("CohereEmbeddings.embedDocuments", "vectors", () => cohere.embedDocuments(TEXTS));
await call('CohereEmbeddings.embedQuery, inputType: "search_query"', "query of one text", async () => [await queries.embedQuery(TEXTS[0])]);
await call("CohereRerank.rerank, topN: 3", "ranking of 3", async () =>
  (await reranker.rerank(DOCUMENTS, QUERY)).map((result) => [result.index, result.relevanceScore]),
);

report();
