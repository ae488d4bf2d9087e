/** A second model, or another variant, beside the first: other similarities, and another order. */

import { counted, node, table } from "../dom.js";
import { matrixTable, twoTexts } from "./matrix.js";
import { nearest, pairsOf, ranks, spearman } from "./similarity.js";

const MOST = 8;

/**
 * Compare two matrices of the same texts.
 * @param {number[][]} first @param {number[][]} second @param {boolean} square
 */
export function difference(first, second, square) {
  const [a, b] = [pairsOf(first, square), pairsOf(second, square)];
  const [x, y] = [a.map((pair) => pair.value), b.map((pair) => pair.value)];
  const [rx, ry] = [ranks(x), ranks(y)];
  const [n, m] = [nearest(first, square), nearest(second, square)];
  return {
    largest: Math.max(0, ...x.map((value, index) => Math.abs(value - y[index]))),
    correlation: spearman(x, y),
    same: n.filter((column, row) => column === m[row]).length,
    moves: a.map(({ row, column }, index) => ({ row, column, from: rx[index], to: ry[index], before: x[index], after: y[index] })),
  };
}

/**
 * Show the differences.
 * @param {number[][]} first @param {number[][]} second
 * @param {import("./matrix.js").Frame & { names: [string, string] }} frame
 */
export function besideView(first, second, frame) {
  const { largest, correlation, same, moves } = difference(first, second, frame.square);
  const [one, two] = frame.names;
  const changed = moves.filter(({ from, to }) => from !== to).sort((a, b) => Math.abs(b.from - b.to) - Math.abs(a.from - a.to));
  const values = second.map((row, i) => row.map((value, j) => value - first[i][j]));
  const sentence = `${two} finds the same nearest text as ${one} for ${same} of ${counted(first.length, frame.square ? "text" : "query", frame.square ? "texts" : "queries")}. ` +
    `The order of all pairs has Spearman's correlation ${correlation === null ? "–" : correlation.toFixed(3)}; similarities differ by up to ${largest.toFixed(4)}.`;
  return node("div", {},
    node("p", {}, sentence),
    node("div", { class: "columns" },
      matrixTable(second, { ...frame, title: `Similarities of ${two}` }),
      matrixTable(values, { ...frame, title: `Difference: ${two} less ${one}`, digits: 4 }, true)),
    changed.length
      ? table("Pairs whose place in the order changes most", ["Pair", `Place: ${one}`, `Place: ${two}`, `Similarity: ${one}`, `Similarity: ${two}`],
          changed.slice(0, MOST).map((move) => [twoTexts(frame.rows[move.row], frame.columns[move.column]), String(move.from), String(move.to), move.before.toFixed(4), move.after.toFixed(4)]))
      : node("p", {}, "Both put all pairs in the same order."));
}
