/** Models of the server, and their cards, which are asked for once. */

import { ask } from "./api.js";

/** @type {any[]} */
let served = [];

/** @type {Map<string, Promise<any>>} */
const cards = new Map();

/** Ask for the models again. */
export async function loadModels() {
  served = (await ask("v1/models")).data;
  cards.clear();
  return served;
}

export const models = () => served;

/** Return the models with an output. @param {string} output */
export const withOutput = (output) => served.filter((model) => model.output === output);

/** @param {string} id */
export const modelOf = (id) => served.find((model) => model.id === id);

/** Return the answer of `/v1/card`. @param {string} id @returns {Promise<any>} */
export function cardOf(id) {
  let card = cards.get(id);
  if (card === undefined) {
    card = ask(`v1/card?model=${encodeURIComponent(id)}`);
    card.catch(() => cards.delete(id));
    cards.set(id, card);
  }
  return card;
}

/** Return choices for a select: names with the variants that run. @param {any[]} list @returns {string[][]} */
export const modelChoices = (list) => list.map((model) => [model.id, `${model.id} (${model.variant})`]);

/** Return the prompt that the model puts before texts of an input type. @param {any} card @param {string} type */
export const promptOf = (card, type) => (type === "raw" ? "" : card.prompts?.[type || "document"] ?? "");
