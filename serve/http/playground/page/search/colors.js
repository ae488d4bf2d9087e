/** Colors of points by the values of a column. */

const LIGHT = ["#2f6db5", "#b3261e", "#14724a", "#c77700", "#7b4bb3", "#0f8b8d", "#a63d7a", "#6b7a00", "#8c5a3c", "#6a7684"];
const DARK = ["#7fb3ee", "#ff9a91", "#6fd3a3", "#f0b054", "#c4a2f2", "#5fd0d2", "#f095c8", "#c3d15a", "#d3a184", "#a9b4c0"];
const RAMP_LIGHT = ["#7fa8d8", "#4b86c4", "#2a62a3", "#173f76", "#0a2148"];
const RAMP_DARK = ["#31557f", "#4579ae", "#649fd6", "#9cc8f2", "#e3f1ff"];

const MOST = LIGHT.length;

/** Different numbers from which a column has a scale and not classes. */
const SCALE_FROM = 13;

/** @typedef {{ groups: Uint8Array, names: string[], sizes: number[], colors: string[] }} Coloring `groups` has the group of each row */

export const isDark = () => matchMedia("(prefers-color-scheme: dark)").matches;

/**
 * Divide rows by a column: by its most frequent values, or numbers into five parts of the same size. Without a column all rows are
 * one group.
 * @param {string[] | null} column @param {number} rows @returns {Coloring}
 */
export function colorBy(column, rows) {
  if (column === null) return { groups: new Uint8Array(rows), names: [""], sizes: [rows], colors: palette(false).slice(0, 1) };
  const sizes = new Map();
  for (const value of column) sizes.set(value, (sizes.get(value) ?? 0) + 1);
  const numbers = column.map((value) => (value.trim() === "" ? NaN : Number(value)));
  if (sizes.size >= SCALE_FROM && column.every((value, row) => value.trim() === "" || !Number.isNaN(numbers[row]))) return byNumber(numbers);
  const frequent = [...sizes].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
  const kept = frequent.slice(0, frequent.length > MOST ? MOST - 1 : MOST).map(([value]) => value);
  const names = frequent.length > MOST ? [...kept, `${frequent.length - kept.length} others`] : kept;
  const place = new Map(kept.map((value, index) => [value, index]));
  return grouped(Uint8Array.from(column, (value) => place.get(value) ?? kept.length), names.map((name) => name || "(empty)"), palette(false));
}

/** @param {number[]} numbers @returns {Coloring} */
function byNumber(numbers) {
  const sorted = numbers.filter((value) => !Number.isNaN(value)).sort((a, b) => a - b);
  const parts = palette(true).length;
  const bounds = Array.from({ length: parts - 1 }, (_, index) => sorted[Math.floor(((index + 1) * sorted.length) / parts)]);
  const ends = [sorted[0], ...bounds, sorted[sorted.length - 1]];
  const names = Array.from({ length: parts }, (_, index) => `${ends[index]} to ${ends[index + 1]}`);
  const empty = numbers.some(Number.isNaN);
  const groups = Uint8Array.from(numbers, (value) => (Number.isNaN(value) ? parts : bounds.filter((bound) => value >= bound).length));
  return grouped(groups, empty ? [...names, "(empty)"] : names, [...palette(true), isDark() ? DARK[9] : LIGHT[9]]);
}

/** @param {Uint8Array} groups @param {string[]} names @param {string[]} colors @returns {Coloring} */
function grouped(groups, names, colors) {
  const sizes = names.map(() => 0);
  for (const group of groups) sizes[group]++;
  return { groups, names, sizes, colors };
}

/** @param {boolean} ramp */
const palette = (ramp) => (ramp ? (isDark() ? RAMP_DARK : RAMP_LIGHT) : isDark() ? DARK : LIGHT);
