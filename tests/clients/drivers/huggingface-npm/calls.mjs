// Calls of HuggingFace's client for Node, against TEI's routes.
import { InferenceClient } from "@huggingface/inference";
import { TEXTS, call, report } from "./harness.mjs";

const client = new InferenceClient("none").endpoint("http://localhost:8080");
const similarity = new InferenceClient("none").endpoint("http://localhost:8080/similarity");

await call("featureExtraction", "vectors", () => client.featureExtraction({ inputs: TEXTS }));
await call("featureExtraction of one text", "vectors of one text", () => client.featureExtraction({ inputs: TEXTS[0] }));
await call("sentenceSimilarity", "similarities", () =>
  similarity.sentenceSimilarity({ inputs: { source_sentence: TEXTS[0], sentences: TEXTS.slice(1) } }),
);

report();
