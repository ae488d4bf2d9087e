/** Check of the canary by the public API: the server must give the vectors that the artifact has for some texts. */

import { embed } from "../api.js";
import { cosine } from "../compare/similarity.js";

/**
 * Compare the vectors of the canary's texts with those of the artifact.
 * @param {any} model @param {any} space the answer of `/v1/space` @param {AbortSignal} signal
 * @returns {Promise<{ passed: boolean, worst: number, largest: number, texts: number }>}
 */
export async function checkCanary(model, { canary }, signal) {
  const { vectors } = await embed(canary.texts, { model: model.id, input_type: "raw" }, signal);
  const worst = Math.min(...vectors.map((vector, index) => (same(vector, canary.vectors[index]) ? 1 : cosine(vector, canary.vectors[index]))));
  const largest = Math.max(...vectors.map((vector, index) => canary.vectors[index].reduce((/** @type {number} */ most, /** @type {number} */ value, /** @type {number} */ place) => Math.max(most, Math.abs(value - vector[place])), 0)));
  const allowed = model.bounds?.reference ?? {};
  const passed = worst >= (allowed.min_cosine ?? 0.999) - 1e-7 && largest <= (allowed.max_abs ?? Infinity);
  return { passed, worst, largest, texts: vectors.length };
}

/** @param {ArrayLike<number>} a @param {ArrayLike<number>} b */
const same = (a, b) => Array.from(a).every((value, index) => value === b[index]);
