/** Search and principal components over a matrix of vectors. Pure functions, for the worker. */

/** @typedef {{ data: Float32Array, size: number, rows: number }} Matrix `data` has `rows` rows of `size` numbers */

/** Numbers, and the least rows, that decide the axes of a map: more do not change them visibly. */
const AXIS_NUMBERS = 2_000_000, AXIS_ROWS = 1000;

/** Columns of the block that the iteration turns: the first two components, and others that let it converge. */
const BLOCK = 6;

const MOST_ROUNDS = 50;
const SETTLED = 1e-6;

/** Time of the last pause, and the milliseconds between two. */
let paused = performance.now();
const PAUSE_EVERY = 40;

/** Let the worker answer other calls, now and then, while it computes for long. */
export async function breathe() {
  if (performance.now() - paused < PAUSE_EVERY) return;
  await new Promise((resolve) => setTimeout(resolve));
  paused = performance.now();
}

/** @param {Matrix} matrix @param {number} row */
export const rowOf = ({ data, size }, row) => data.subarray(row * size, (row + 1) * size);

/** @param {ArrayLike<number>} a @param {ArrayLike<number>} b */
function dot(a, b) {
  let sum = 0;
  for (let index = 0; index < a.length; index++) sum += a[index] * b[index];
  return sum;
}

/** Scale every row to length 1; rows of zeros stay. @param {Matrix} matrix */
export function normalizeRows(matrix) {
  for (let row = 0; row < matrix.rows; row++) {
    const values = rowOf(matrix, row);
    const length = Math.sqrt(dot(values, values));
    if (length) for (let index = 0; index < values.length; index++) values[index] /= length;
  }
}

/**
 * Return the rows with the largest products with a vector, the largest first; of equal ones the earlier row.
 * @param {Matrix} matrix @param {Float32Array} vector @param {number} most
 * @returns {{ row: number, score: number }[]}
 */
export function top(matrix, vector, most) {
  const scores = new Float32Array(matrix.rows);
  for (let row = 0; row < matrix.rows; row++) scores[row] = dot(rowOf(matrix, row), vector);
  const order = Array.from(scores.keys()).sort((a, b) => scores[b] - scores[a] || a - b);
  return order.slice(0, most).map((row) => ({ row, score: scores[row] }));
}

/**
 * Place the rows in the plane of the first two principal components, by block power iteration.
 * @param {Matrix} matrix @returns {Promise<{ places: Float32Array, share: number, used: number }>} x and y of each row, the part of the
 * variance that they have, and the rows that decided the axes
 */
export async function principal(matrix) {
  const { rows, size } = matrix;
  const used = Math.min(rows, Math.max(Math.floor(AXIS_NUMBERS / size), AXIS_ROWS));
  const picked = Array.from({ length: used }, (_, index) => Math.floor((index * rows) / used));
  const mean = new Float64Array(size);
  for (const row of picked) rowOf(matrix, row).forEach((value, index) => (mean[index] += value / used));
  const sample = new Float32Array(used * size);
  let total = 0;
  picked.forEach((row, place) => {
    const values = rowOf(matrix, row);
    for (let index = 0; index < size; index++) {
      const value = values[index] - mean[index];
      sample[place * size + index] = value;
      total += value * value;
    }
  });
  const axes = await turn({ data: sample, size, rows: used });
  const places = new Float32Array(2 * rows);
  for (let row = 0; row < rows; row++) {
    const values = rowOf(matrix, row);
    for (let axis = 0; axis < 2; axis++) {
      let sum = 0;
      if (axes[axis]) for (let index = 0; index < size; index++) sum += (values[index] - mean[index]) * axes[axis][index];
      places[2 * row + axis] = sum;
    }
  }
  let kept = 0;
  for (let place = 0; place < used; place++) for (const axis of axes.slice(0, 2)) kept += dot(axis, sample.subarray(place * size, (place + 1) * size)) ** 2;
  return { places, share: total ? kept / total : 0, used };
}

/**
 * Return the first axes of centered rows, of length 1 and at right angles, those with the most variance first.
 * @param {Matrix} centered @returns {Promise<Float64Array[]>}
 */
async function turn(centered) {
  const { size } = centered;
  let axes = orthogonal(Array.from({ length: Math.min(BLOCK, size) }, (_, axis) => Float64Array.from({ length: size }, (_, index) => Math.cos(1 + (axis + 1) * (index + 1)))));
  let before = 0;
  for (let round = 0; round < MOST_ROUNDS; round++) {
    const images = axes.map(() => new Float64Array(size));
    for (let row = 0; row < centered.rows; row++) {
      if (row % 256 === 0) await breathe();
      const values = rowOf(centered, row);
      axes.forEach((axis, at) => {
        const length = dot(values, axis), image = images[at];
        for (let index = 0; index < size; index++) image[index] += length * values[index];
      });
    }
    const small = axes.map((axis) => images.map((image) => dot(axis, image)));
    const { values, vectors } = jacobi(small);
    const found = values.slice(0, 2).reduce((sum, value) => sum + value, 0);
    axes = orthogonal(vectors.map((vector) => combine(images, vector)));
    if (Math.abs(found - before) <= SETTLED * found) break;
    before = found;
  }
  return axes;
}

/** @param {Float64Array[]} parts @param {number[]} weights */
function combine(parts, weights) {
  const sum = new Float64Array(parts[0].length);
  parts.forEach((part, at) => {
    for (let index = 0; index < sum.length; index++) sum[index] += weights[at] * part[index];
  });
  return sum;
}

/** Make vectors orthogonal and of length 1; those that depend on others are left out. @param {Float64Array[]} vectors */
function orthogonal(vectors) {
  /** @type {Float64Array[]} */
  const kept = [];
  for (const vector of vectors) {
    const before = Math.sqrt(dot(vector, vector));
    for (let time = 0; time < 2; time++) {
      for (const other of kept) {
        const part = dot(vector, other);
        for (let index = 0; index < vector.length; index++) vector[index] -= part * other[index];
      }
    }
    const length = Math.sqrt(dot(vector, vector));
    if (length <= 1e-10 * before || !length) continue;
    kept.push(vector.map((value) => value / length));
  }
  return kept;
}

/** Return the eigenvalues of a small symmetric matrix, the largest first, and their vectors, by Jacobi's rotations. @param {number[][]} matrix */
export function jacobi(matrix) {
  const n = matrix.length;
  const a = matrix.map((row) => [...row]);
  const v = matrix.map((_, i) => matrix.map((_, j) => Number(i === j)));
  for (let sweep = 0; sweep < 50; sweep++) {
    for (let p = 0; p < n; p++) {
      for (let q = p + 1; q < n; q++) {
        if (a[p][q] === 0) continue;
        const angle = (a[q][q] - a[p][p]) / (2 * a[p][q]);
        const t = Math.sign(angle || 1) / (Math.abs(angle) + Math.sqrt(angle * angle + 1));
        const c = 1 / Math.sqrt(t * t + 1), s = t * c;
        for (let k = 0; k < n; k++) [a[k][p], a[k][q]] = [c * a[k][p] - s * a[k][q], s * a[k][p] + c * a[k][q]];
        for (let k = 0; k < n; k++) [a[p][k], a[q][k]] = [c * a[p][k] - s * a[q][k], s * a[p][k] + c * a[q][k]];
        for (let k = 0; k < n; k++) [v[k][p], v[k][q]] = [c * v[k][p] - s * v[k][q], s * v[k][p] + c * v[k][q]];
      }
    }
  }
  const order = a.map((_, index) => index).sort((x, y) => a[y][y] - a[x][x]);
  return { values: order.map((index) => a[index][index]), vectors: order.map((index) => v.map((row) => row[index])) };
}
