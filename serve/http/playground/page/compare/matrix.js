/** Table of similarities, and the pairs that are nearest. */

import { excerpt, node } from "../dom.js";

/** Letters of a text in the head of a row, and in a pair. */
const LABEL = 60, QUOTED = 90;

/**
 * @typedef {{ title: string, square: boolean, rows: string[], columns: string[], digits?: number }} Frame
 * @typedef {{ row: number, column: number, value: number }} Pair
 */

/**
 * Make the table of a matrix. The color of a cell goes from the smallest to the largest value beside the diagonal, or around 0
 * for differences.
 * @param {number[][]} matrix @param {Frame} frame @param {boolean} [difference]
 */
export function matrixTable(matrix, { title, square, rows, columns, digits = 3 }, difference = false) {
  const shown = matrix.flatMap((values, row) => values.filter((_, column) => !(square && row === column)));
  const low = Math.min(...shown), high = Math.max(...shown);
  const most = Math.max(Math.abs(low), Math.abs(high), 1e-9);
  const heat = (/** @type {number} */ value) => (difference ? Math.abs(value) / most : high > low ? (value - low) / (high - low) : 1);
  const cell = (/** @type {number} */ value, /** @type {number} */ row, /** @type {number} */ column) => {
    const same = square && row === column;
    const attributes = { class: same ? "same" : difference && value < 0 ? "heat cold" : "heat", "--heat": same ? "0" : heat(value).toFixed(3) };
    return node("td", attributes, (difference && value > 0 ? "+" : "") + value.toFixed(digits));
  };
  return node("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": title },
    node("table", { class: "matrix" },
      node("caption", {}, title),
      node("thead", {}, node("tr", {}, node("td", {}), columns.map((text, index) => node("th", { scope: "col", title: text }, String(index + 1), node("span", { class: "hide" }, ` ${excerpt(text, LABEL)}`))))),
      node("tbody", {}, matrix.map((values, row) =>
        node("tr", {}, node("th", { scope: "row", title: rows[row] }, `${square ? `${row + 1} ` : ""}${excerpt(rows[row], LABEL)}`), values.map((value, column) => cell(value, row, column)))))));
}

/** List the texts of the columns, if the rows are other texts. @param {Frame} frame */
export const columnList = ({ square, columns }) =>
  square ? null : node("ol", { class: "keys", "aria-label": "Texts of the columns" }, columns.map((text) => node("li", {}, excerpt(text, LABEL))));

/** Name a pair of texts. @param {string} one @param {string} other */
export const twoTexts = (one, other) => node("span", {}, node("q", {}, excerpt(one, QUOTED)), " and ", node("q", {}, excerpt(other, QUOTED)));

/**
 * List the nearest pairs.
 * @param {Pair[]} pairs @param {Frame} frame @param {number} most @param {((value: number) => string) | null} chance
 */
export function pairList(pairs, { rows, columns, digits = 3 }, most, chance) {
  const best = [...pairs].sort((a, b) => b.value - a.value).slice(0, most);
  return node("ol", { class: "pairs" }, best.map(({ row, column, value }) =>
    node("li", {},
      node("span", { class: "value" }, value.toFixed(digits), chance && node("span", { class: "soft" }, ` · ${chance(value)}`)),
      twoTexts(rows[row], columns[column]))));
}
