// The part that all drivers for Node share. It runs in the client's environment.
import { writeFileSync } from "node:fs";

const [output, inputs] = process.argv.slice(2);

// Texts to embed, query, and documents to rank.
export const { texts: TEXTS, query: QUERY, documents: DOCUMENTS } = JSON.parse(inputs);

const made = [];

// Make one call of the client and keep its result, as `call` of harness.py describes it.
export async function call(name, expected, run) {
  try {
    made.push({ name, expected, value: await run() });
  } catch (error) {
    made.push({ name, expected, error: String(error) });
  }
}

// Write all results into the file that the test named.
export function report() {
  writeFileSync(output, JSON.stringify(made));
}
