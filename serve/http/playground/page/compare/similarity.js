/** Similarities of vectors, ranks, and probabilities. Pure functions. */

/** @typedef {ArrayLike<number>} Vector */

/** @param {Vector} a @param {Vector} b */
export function dot(a, b) {
  let sum = 0;
  for (let index = 0; index < a.length; index++) sum += a[index] * b[index];
  return sum;
}

/** Return the cosine, 0 if a vector is zero. @param {Vector} a @param {Vector} b */
export function cosine(a, b) {
  const lengths = Math.sqrt(dot(a, a) * dot(b, b));
  return lengths ? dot(a, b) / lengths : 0;
}

/** @param {Vector} a @param {Vector} b @param {number} power */
function distance(a, b, power) {
  let sum = 0;
  for (let index = 0; index < a.length; index++) sum += Math.abs(a[index] - b[index]) ** power;
  return sum ** (1 / power);
}

const BITS = Uint8Array.from({ length: 256 }, (_, byte) => byte.toString(2).replaceAll("0", "").length);

/**
 * Return the cosine of vectors of -1 and 1, of which each byte has eight: 1 - 2 · differing bits / bits.
 * @param {Vector} a @param {Vector} b
 */
export function bitSimilarity(a, b) {
  let different = 0;
  for (let index = 0; index < a.length; index++) different += BITS[a[index] ^ b[index]];
  return 1 - different / (4 * a.length);
}

/** Functions by the name that a model's card has. Distances are negative, so that more is nearer. */
export const MEASURES = {
  cosine: { title: "cosine", of: cosine },
  dot: { title: "dot product", of: dot },
  euclidean: { title: "negative Euclidean distance", of: (/** @type {Vector} */ a, /** @type {Vector} */ b) => -distance(a, b, 2) },
  manhattan: { title: "negative Manhattan distance", of: (/** @type {Vector} */ a, /** @type {Vector} */ b) => -distance(a, b, 1) },
};

/**
 * Return similarities, a row for each of `rows`.
 * @param {Vector[]} rows @param {Vector[]} columns @param {(a: Vector, b: Vector) => number} of
 * @returns {number[][]}
 */
export const matrixOf = (rows, columns, of) => rows.map((row) => columns.map((column) => of(row, column)));

/**
 * Return the cells of a table to look at: all, or those above the diagonal if each text is compared with each.
 * @param {number[][]} matrix @param {boolean} square whether rows and columns are the same texts
 * @returns {{ row: number, column: number, value: number }[]}
 */
export const pairsOf = (matrix, square) =>
  matrix.flatMap((values, row) => values.map((value, column) => ({ row, column, value })).filter(({ column }) => !square || column > row));

/** Return the rank of each value, 1 for the largest; equal values share the mean of their ranks. @param {number[]} values */
export function ranks(values) {
  const order = values.map((_, index) => index).sort((a, b) => values[b] - values[a]);
  const found = new Array(values.length);
  for (let start = 0; start < order.length; ) {
    let end = start + 1;
    while (end < order.length && values[order[end]] === values[order[start]]) end++;
    for (let index = start; index < end; index++) found[order[index]] = (start + end + 1) / 2;
    start = end;
  }
  return found;
}

/** Return Spearman's correlation of two lists, null where it is not defined. @param {number[]} a @param {number[]} b */
export function spearman(a, b) {
  const [x, y] = [ranks(a), ranks(b)];
  const mean = (a.length + 1) / 2;
  let both = 0, xx = 0, yy = 0;
  for (let index = 0; index < x.length; index++) {
    both += (x[index] - mean) * (y[index] - mean);
    xx += (x[index] - mean) ** 2;
    yy += (y[index] - mean) ** 2;
  }
  return xx && yy ? both / Math.sqrt(xx * yy) : null;
}

/**
 * Return for each row the column with the largest value; of equal texts a row itself is left out.
 * @param {number[][]} matrix @param {boolean} square
 */
export const nearest = (matrix, square) =>
  matrix.map((values, row) => values.reduce((best, value, column) => (square && column === row) || (best >= 0 && values[best] >= value) ? best : column, -1));

/** Return the probability that a calibration gives a value. @param {any} calibration @param {number} value */
export function probability(calibration, value) {
  if (calibration.method === "logistic") return 1 / (1 + Math.exp(-(calibration.slope * value + calibration.intercept)));
  const { values, probabilities } = calibration;
  if (value <= values[0]) return probabilities[0];
  for (let index = 1; index < values.length; index++) {
    if (value <= values[index]) {
      const part = (value - values[index - 1]) / (values[index] - values[index - 1]);
      return probabilities[index - 1] + part * (probabilities[index] - probabilities[index - 1]);
    }
  }
  return probabilities[probabilities.length - 1];
}
