/**
 * Map of the neighbors: UMAP (McInnes, Healy and Melville 2018) with its default settings, from exact neighbors, beginning at the
 * principal components.
 */

import { breathe, principal, rowOf } from "./linear.js";

const MOST_ROWS = 4000;
const NEIGHBORS = 15;
const NEGATIVE = 5;

/** Parameters of the curve 1 / (1 + a·d^2b) for the smallest distance 0.1 and the spread 1. */
const A = 1.576943460405378, B = 0.8950608781227859;

/**
 * Place rows of length 1 in the plane. Of many an even sample is placed.
 * @param {import("./linear.js").Matrix} matrix
 * @returns {Promise<{ places: Float32Array, rows: Uint32Array }>} x and y, and the row, of each point
 */
export async function neighborMap(matrix) {
  const count = Math.min(matrix.rows, MOST_ROWS);
  const rows = Uint32Array.from({ length: count }, (_, index) => Math.floor((index * matrix.rows) / count));
  const picked = { data: new Float32Array(count * matrix.size), size: matrix.size, rows: count };
  rows.forEach((row, index) => picked.data.set(rowOf(matrix, row), index * matrix.size));
  const start = (await principal(picked)).places;
  let most = 1e-9;
  for (const value of start) most = Math.max(most, Math.abs(value));
  const random = generator();
  const places = Float32Array.from(start, (value) => (10 * value) / most + (random() - 0.5) * 1e-3);
  if (count > 3) await descend(places, await edgesOf(picked), count, random);
  return { places, rows };
}

/** Return numbers from 0 to 1 that are the same each time (mulberry32). */
function generator() {
  let state = 42;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let value = Math.imul(state ^ (state >>> 15), 1 | state);
    value = (value + Math.imul(value ^ (value >>> 7), 61 | value)) ^ value;
    return ((value ^ (value >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Return the nearest rows of each with the distances 1 - cosine. @param {import("./linear.js").Matrix} matrix @param {number} k */
export async function nearestRows({ data, size, rows }, k) {
  const ids = new Int32Array(rows * k).fill(-1);
  const distances = new Float32Array(rows * k).fill(Infinity);
  const insert = (/** @type {number} */ row, /** @type {number} */ other, /** @type {number} */ distance) => {
    let place = (row + 1) * k - 1;
    if (distance >= distances[place]) return;
    for (; place > row * k && distances[place - 1] > distance; place--) {
      distances[place] = distances[place - 1];
      ids[place] = ids[place - 1];
    }
    distances[place] = distance;
    ids[place] = other;
  };
  for (let row = 0; row < rows; row++) {
    await breathe();
    for (let other = row + 1; other < rows; other++) {
      let product = 0;
      for (let a = row * size, b = other * size, end = a + size; a < end; a++, b++) product += data[a] * data[b];
      const distance = Math.max(1 - product, 0);
      insert(row, other, distance);
      insert(other, row, distance);
    }
  }
  return { ids, distances };
}

/** Return the weighted edges between neighbors (the fuzzy simplicial set). @param {import("./linear.js").Matrix} matrix */
async function edgesOf(matrix) {
  const { rows } = matrix;
  const k = Math.min(NEIGHBORS - 1, rows - 1); // UMAP counts the row itself among its neighbors
  const { ids, distances } = await nearestRows(matrix, k);
  /** @type {Map<number, number>} */
  const weights = new Map();
  for (let row = 0; row < rows; row++) {
    const own = distances.subarray(row * k, (row + 1) * k);
    const nearest = own.find((distance) => distance > 0) ?? 0;
    const scale = scaleOf(own, nearest);
    for (let place = 0; place < k; place++) weights.set(row * rows + ids[row * k + place], Math.exp(-Math.max(own[place] - nearest, 0) / scale));
  }
  /** @type {{ from: number, to: number, weight: number }[]} */
  const edges = [];
  for (const [key, weight] of weights) {
    const from = Math.floor(key / rows), to = key % rows;
    const back = weights.get(to * rows + from) ?? 0;
    if (back && from > to) continue; // the other direction has both
    edges.push({ from, to, weight: weight + back - weight * back });
  }
  return edges;
}

/** Return the scale at which the weights of a row's neighbors add up to log2 of their number. @param {Float32Array} distances @param {number} nearest */
function scaleOf(distances, nearest) {
  const wanted = Math.log2(distances.length + 1);
  let low = 0, high = Infinity, middle = 1;
  for (let time = 0; time < 64; time++) {
    let sum = 0;
    for (const distance of distances) sum += Math.exp(-Math.max(distance - nearest, 0) / middle);
    if (Math.abs(sum - wanted) < 1e-5) break;
    if (sum > wanted) high = middle;
    else low = middle;
    middle = high === Infinity ? middle * 2 : (low + high) / 2;
  }
  const mean = distances.reduce((sum, distance) => sum + distance, 0) / distances.length;
  return Math.max(middle, 1e-3 * mean, 1e-12);
}

/**
 * Move the points by stochastic gradient descent: along edges together, away from random others.
 * @param {Float32Array} places @param {{ from: number, to: number, weight: number }[]} edges @param {number} rows @param {() => number} random
 */
async function descend(places, edges, rows, random) {
  const rounds = 300;
  const most = edges.reduce((largest, { weight }) => Math.max(largest, weight), 0);
  const used = edges.filter(({ weight }) => weight >= most / rounds);
  const period = used.map(({ weight }) => most / weight);
  const next = [...period];
  const clip = (/** @type {number} */ value) => Math.max(-4, Math.min(4, value));
  for (let round = 1; round <= rounds; round++) {
    await breathe();
    const step = 1 - (round - 1) / rounds;
    for (let edge = 0; edge < used.length; edge++) {
      const { from, to } = used[edge];
      if (next[edge] > round) continue;
      next[edge] += period[edge];
      const a = 2 * from, b = 2 * to;
      const dx = places[a] - places[b], dy = places[a + 1] - places[b + 1];
      const square = dx * dx + dy * dy;
      if (square > 0) {
        const pull = (-2 * A * B * square ** (B - 1)) / (A * square ** B + 1);
        places[a] += step * clip(pull * dx);
        places[a + 1] += step * clip(pull * dy);
        places[b] -= step * clip(pull * dx);
        places[b + 1] -= step * clip(pull * dy);
      }
      for (let time = 0; time < NEGATIVE; time++) {
        const other = 2 * Math.floor(random() * rows);
        if (other === a) continue;
        const ex = places[a] - places[other], ey = places[a + 1] - places[other + 1];
        const far = ex * ex + ey * ey;
        const push = far > 0 ? (2 * B) / ((0.001 + far) * (A * far ** B + 1)) : 0;
        places[a] += step * (push > 0 ? clip(push * ex) : 4);
        places[a + 1] += step * (push > 0 ? clip(push * ey) : 4);
      }
    }
  }
}
