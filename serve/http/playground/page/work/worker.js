/** Worker that holds the vectors of the rows, so that the page stays quick while it computes. */

import { neighborMap } from "./neighbors.js";
import { normalizeRows, principal, rowOf, top } from "./linear.js";

/** @type {import("./linear.js").Matrix} */
let matrix = { data: new Float32Array(), size: 0, rows: 0 };

/** @type {Record<string, (message: any) => any>} */
const operations = {
  begin({ rows, size }) {
    matrix = { data: new Float32Array(rows * size), size, rows };
  },
  put({ row, values }) {
    matrix.data.set(values, row * matrix.size);
  },
  /** Scale the rows, so that products are cosines. */
  end() {
    normalizeRows(matrix);
  },
  top: ({ vector, most }) => top(matrix, vector, most),
  near: ({ row, most }) => top(matrix, rowOf(matrix, row), most + 1).filter((found) => found.row !== row).slice(0, most),
  principal: () => principal(matrix),
  neighbors: () => neighborMap(matrix),
};

addEventListener("message", async ({ data }) => {
  try {
    postMessage({ id: data.id, value: await operations[data.operation](data) });
  } catch (error) {
    postMessage({ id: data.id, error: error instanceof Error ? error.message : String(error) });
  }
});
