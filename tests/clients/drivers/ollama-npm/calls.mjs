// Calls of Ollama's client for Node.
import { Ollama } from "ollama";
import { TEXTS, call, report } from "./harness.mjs";

const client = new Ollama({ host: "http://localhost:8080", headers: { Authorization: "Bearer none" } });

await call("embed", "vectors", async () => (await client.embed({ model: "minilm", input: TEXTS })).embeddings);
await call("embeddings of one text", "vectors of one text", async () => [
  (await client.embeddings({ model: "minilm", prompt: TEXTS[0] })).embedding,
]);
await call("list", "names", async () => (await client.list()).models.map((model) => model.name));

report();
