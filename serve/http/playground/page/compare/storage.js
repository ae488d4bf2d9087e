/** Smaller types of vectors beside float32, in the server's own encodings. */

import { embed } from "../api.js";
import { count, node, short, table } from "../dom.js";
import { explain } from "../errors.js";
import { bitSimilarity, cosine, matrixOf, nearest, pairsOf } from "./similarity.js";

/** Types with their bytes for each element, and the measure that replaces the cosine. */
const TYPES = [
  { dtype: "float16", bytes: 2, title: "float16", of: cosine },
  { dtype: "int8", bytes: 1, title: "int8", of: cosine },
  { dtype: "ubinary", bytes: 1 / 8, title: "binary", of: bitSimilarity },
];

/**
 * Ask the server for the vectors in each type, and compare their similarities with those of float32.
 * @param {{ texts: string[], queries: string[], options: any, queryOptions: any, full: number[][], size: number }} run `full` has the cosines of float32
 * @param {AbortSignal} signal
 */
export async function storageTable({ texts, queries, options, queryOptions, full, size }, signal) {
  const square = queries.length === 0;
  const head = ["Type", "Bytes of a vector", "A million vectors", "Largest difference", "Mean difference", "Same nearest text"];
  const rows = await Promise.all(TYPES.map(async ({ dtype, bytes, title, of }) => {
    const sizes = [title, count(Math.ceil(size * bytes + (dtype === "int8" ? 4 : 0))), megabytes(size * bytes)];
    try {
      const columns = (await embed(texts, { ...options, dtype }, signal)).vectors;
      const own = square ? columns : (await embed(queries, { ...queryOptions, dtype }, signal)).vectors;
      return [...sizes, ...compare(full, matrixOf(own, columns, of), square)];
    } catch (error) {
      if (signal.aborted) throw error;
      const { title: what, advice } = explain(error);
      return [...sizes, node("td", { colspan: "3" }, advice || what)];
    }
  }));
  const base = ["float32", count(size * 4), megabytes(size * 4), "0", "0", `${full.length} of ${full.length}`];
  return node("div", {}, table("Storage types beside float32", head, [base, ...rows]),
    node("p", { class: "hint" }, "Cosines of the stored values; for binary the share of equal bits, from -1 to 1, whose order counts and not its value. An int8 vector is stored with its scale, four bytes."));
}

/** @param {number[][]} full @param {number[][]} small @param {boolean} square */
export function compare(full, small, square) {
  const pairs = pairsOf(full, square);
  const differences = pairs.map(({ row, column, value }) => Math.abs(small[row][column] - value));
  const [a, b] = [nearest(full, square), nearest(small, square)];
  const same = a.filter((column, row) => column === b[row]).length;
  const mean = differences.reduce((sum, value) => sum + value, 0) / Math.max(differences.length, 1);
  return [short(Math.max(...differences, 0)), short(mean), `${same} of ${full.length}`];
}

/** @param {number} bytes */
const megabytes = (bytes) => (bytes >= 1000 ? `${(bytes / 1000).toFixed(2)} GB` : `${Math.round(bytes)} MB`);
