// Calls of OpenAI's client for Node.
import OpenAI, { AzureOpenAI } from "openai";
import { TEXTS, call, report } from "./harness.mjs";

const client = new OpenAI({ baseURL: "http://localhost:8080/v1", apiKey: "none" });
const azure = new AzureOpenAI({ endpoint: "http://localhost:8080", apiKey: "none", apiVersion: "2024-10-21" });

const vectors = (answer) => answer.data.map((item) => item.embedding);

await call("embeddings.create", "vectors", async () =>
  vectors(await client.embeddings.create({ model: "minilm", input: TEXTS })),
);
await call("embeddings.create of one text", "vectors of one text", async () =>
  vectors(await client.embeddings.create({ model: "minilm", input: TEXTS[0] })),
);
await call('embeddings.create, encoding_format: "float"', "vectors", async () =>
  vectors(await client.embeddings.create({ model: "minilm", input: TEXTS, encoding_format: "float" })),
);
await call('embeddings.create, encoding_format: "base64"', "vectors", async () => {
  const rows = vectors(await client.embeddings.create({ model: "minilm", input: TEXTS, encoding_format: "base64" }));
  return rows.map((row) => Array.from(new Float32Array(new Uint8Array(Buffer.from(row, "base64")).buffer)));
});
await call("embeddings.create, dimensions: 16", "query in 16 dimensions", async () =>
  vectors(await client.embeddings.create({ model: "prompted", input: TEXTS, dimensions: 16, input_type: "query" })),
);
await call("AzureOpenAI: embeddings.create", "vectors", async () =>
  vectors(await azure.embeddings.create({ model: "minilm", input: TEXTS })),
);

report();
