/** View "Compare": similarities of some texts, their tokens, storage types, and a second model. */

import { ask, embed, key } from "../api.js";
import { codeView } from "../code.js";
import { by, choices, counted, lines, milliseconds, node, save, settled } from "../dom.js";
import { InputError, isCancel, showError } from "../errors.js";
import { cardOf, modelChoices, modelOf, promptOf, withOutput } from "../models.js";
import { besideView } from "./beside.js";
import { columnList, matrixTable, pairList } from "./matrix.js";
import { MEASURES, cosine, matrixOf, pairsOf, probability } from "./similarity.js";
import { storageTable } from "./storage.js";
import { tokenView } from "./tokens.js";

const MOST_TEXTS = 64;
const MOST_PAIRS = 10;

/** What the view shows, for the tests of the page. @type {{ run: any, done: number }} */
export const state = { run: null, done: 0 };

let aborting = new AbortController();

/** A choice changes the result on the screen, if there is one. */
const again = settled(() => state.run && run(), 250);

export function start() {
  by("compare-form").addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    run();
  });
  by("compare-model").addEventListener("change", () => chooseModel().then(again.ask, fail));
  by("compare-size").addEventListener("input", () => {
    showSize();
    again.ask();
  });
  for (const id of ["compare-type", "compare-query-type"]) by(id).addEventListener("change", () => showPrompts().then(again.ask, fail));
  by("compare-other").addEventListener("change", again.ask);
}

export function models() {
  const usable = withOutput("vectors");
  by("compare-form").querySelector("button").disabled = usable.length === 0;
  choices(by("compare-model"), modelChoices(usable));
  choices(by("compare-other"), [["", "no other model"], ...modelChoices(usable)]);
  if (usable.length) chooseModel().catch(fail);
  else showError(by("compare-error"), new InputError("No model of this server gives vectors. “Look inside” shows the models that it has."));
}

/** @param {any} error */
function fail(error) {
  if (isCancel(error)) return;
  by("compare-status").textContent = "";
  showError(by("compare-error"), error, key() !== "");
}

const model = () => modelOf(by("compare-model").value);

/** Lengths of vectors, the shortest first, as the slider has them. */
const sizes = () => [...model().dimensions].sort((a, b) => a - b);

async function chooseModel() {
  if (!model()) return;
  showError(by("compare-error"), null);
  const types = model().input_types;
  const [before, queries] = [by("compare-type").value || "document", by("compare-query-type").value || "query"];
  for (const [id, value] of [["compare-type", before], ["compare-query-type", queries]]) {
    choices(by(id), types.map((/** @type {string} */ type) => [type]));
    by(id).value = types.includes(value) ? value : types[0];
  }
  const slider = by("compare-size");
  slider.max = String(sizes().length - 1);
  slider.value = slider.max;
  slider.disabled = sizes().length < 2;
  by("compare-size-hint").textContent = slider.disabled ? "the model was trained for this length alone" : "lengths that the model was trained for (Matryoshka)";
  showSize();
  await showPrompts();
}

const size = () => sizes()[Number(by("compare-size").value)];

function showSize() {
  const text = `${size()} of ${model().dimension}`;
  by("compare-size-shown").textContent = text;
  by("compare-size").setAttribute("aria-valuetext", text);
}

async function showPrompts() {
  const { card } = await cardOf(model().id);
  for (const id of ["compare-type", "compare-query-type"]) {
    const prompt = promptOf(card, by(id).value);
    by(`${id}-prompt`).replaceChildren(...(prompt ? ["prompt: ", node("code", {}, JSON.stringify(prompt))] : ["no prompt"]));
  }
}

/** Read the form. @throws {InputError} */
function readForm() {
  const texts = lines(by("compare-texts").value), queries = lines(by("compare-queries").value);
  if (!texts.length || texts.length + queries.length < 2) throw new InputError("Type at least two texts, each on a line of its own.");
  if (Math.max(texts.length, queries.length) > MOST_TEXTS) throw new InputError(`This view compares up to ${MOST_TEXTS} texts: use “Search” for more.`);
  return { texts, queries, type: by("compare-type").value, queryType: by("compare-query-type").value, size: size() };
}

/**
 * Embed the texts by a model.
 * @param {any} served @param {ReturnType<typeof readForm>} form @param {AbortSignal} signal
 */
async function measure(served, form, signal) {
  const square = form.queries.length === 0;
  const size = served.dimensions.includes(form.size) ? form.size : served.dimension;
  const typed = (/** @type {string} */ type) => (served.input_types.includes(type) ? type : "document");
  const options = { model: served.id, input_type: typed(form.type), dimensions: size };
  const queryOptions = { ...options, input_type: typed(form.queryType) };
  const [{ card, calibration }, texts, queries] = await Promise.all([
    cardOf(served.id),
    embed(form.texts, options, signal),
    square ? null : embed(form.queries, queryOptions, signal),
  ]);
  const rows = queries ?? texts;
  const name = /** @type {keyof typeof MEASURES} */ (served.similarity in MEASURES ? served.similarity : "cosine");
  const cosines = matrixOf(rows.vectors, texts.vectors, cosine);
  return { served, card, calibration, size, options, queryOptions, texts, queries, square, name, cosines,
    matrix: name === "cosine" ? cosines : matrixOf(rows.vectors, texts.vectors, MEASURES[name].of) };
}

async function run() {
  again.cancel();
  aborting.abort();
  aborting = new AbortController();
  const { signal } = aborting;
  showError(by("compare-error"), null);
  try {
    const form = readForm();
    by("compare-status").textContent = "Computing …";
    const other = modelOf(by("compare-other").value);
    const [first, second] = await Promise.all([measure(model(), form, signal), other ? measure(other, form, signal) : null]);
    if (signal.aborted) return;
    state.run = { form, first, second };
    const tokens = first.texts.tokens + (first.queries?.tokens ?? 0);
    by("compare-status").textContent = `${counted(form.texts.length + form.queries.length, "text")}, ${counted(tokens, "token")}, ${milliseconds(first.texts.seconds)}`;
    show(form, first, second, signal);
    state.done++;
  } catch (error) {
    fail(error);
  }
}

/** @typedef {Awaited<ReturnType<typeof measure>>} Measured */

/** Return the function that says a probability, and the reason if there is none. @param {Measured} first */
function chanceOf({ calibration, options, queryOptions, square, size, served }) {
  if (!calibration || calibration.measure !== "cosine") return { chance: null, reason: "" };
  const types = square ? [options.input_type] : [options.input_type, queryOptions.input_type];
  if (types.some((type) => type !== calibration.input_type)) return { chance: null, reason: `Probabilities need the input type ${calibration.input_type} for all texts.` };
  if (size !== served.dimension) return { chance: null, reason: "Probabilities need all dimensions." };
  return { chance: (/** @type {number} */ value) => `${(100 * probability(calibration, value)).toFixed(1)} % to belong together`,
    reason: `Probabilities are of the calibration (${calibration.method}, ${counted(calibration.pairs, "pair")}, expected error ${(100 * calibration.error).toFixed(1)} %).` };
}

/** @param {any} form @param {Measured} first @param {Measured | null} second @param {AbortSignal} signal */
function show(form, first, second, signal) {
  const { square, matrix, cosines } = first;
  const frame = { title: `Similarity (${MEASURES[first.name].title})`, square, rows: square ? form.texts : form.queries, columns: form.texts };
  const { chance, reason } = chanceOf(first);
  const pairs = pairsOf(matrix, square);
  const byCosine = chance && ((/** @type {number} */ value) => chance(value));
  const tokenBox = node("div", {}, node("p", { class: "soft" }, "Loading …"));
  const storageBox = node("div", {}, node("p", { class: "soft" }, "Loading …"));
  const probabilities = chance && first.name === "cosine"
    ? node("details", {}, node("summary", {}, "Probabilities of all pairs"), matrixTable(cosines.map((row) => row.map((value) => probability(first.calibration, value))), { ...frame, title: "Probability that two texts belong together" }))
    : null;
  const requests = [first.texts.request, ...(first.queries ? [first.queries.request] : []), ...(second ? [second.texts.request] : []), { path: "tokenize", body: { inputs: form.texts, input_type: first.options.input_type, model: first.served.id } }];
  const section = (/** @type {string} */ title, /** @type {any[]} */ ...content) => node("section", { class: "card" }, node("h3", {}, title), content);
  by("compare-result").replaceChildren(
    section("Similarity", matrixTable(matrix, frame), columnList(frame), reason && node("p", { class: "hint" }, reason), probabilities),
    section("Nearest pairs", pairList(pairs, frame, MOST_PAIRS, first.name === "cosine" ? byCosine : null)),
    second ? section("Side by side", besideView(cosines, second.cosines, { ...frame, names: labels(first, second) }), sizeNote(form, first, second)) : "",
    section("Tokens", tokenBox),
    section("Storage", storageBox),
    node("p", { class: "actions" }, node("button", { type: "button", click: () => download(form, first) }, "Save the vectors as JSON"),
      node("span", { class: "soft" }, "space ", node("code", {}, first.texts.space))),
    codeView(requests));
  by("compare-result").hidden = false;
  fill(tokenBox, tokenLists(form, first, signal));
  fill(storageBox, storageTable({ ...form, ...first, texts: form.texts, queries: form.queries, full: cosines }, signal));
}

/** @param {Measured} first @param {Measured} second @returns {[string, string]} */
const labels = (first, second) => (first.served.id === second.served.id ? [first.served.id, `${second.served.id} (again)`] : [first.served.id, second.served.id]);

/** @param {any} form @param {Measured} first @param {Measured} second */
const sizeNote = (form, first, second) =>
  node("p", { class: "hint" }, `Cosines of ${first.size} and ${second.size} dimensions.${second.size === form.size ? "" : ` ${second.served.id} does not have ${form.size}.`}`);

/** Put a part that arrives later into its box. @param {any} box @param {Promise<any>} content */
async function fill(box, content) {
  try {
    box.replaceChildren(await content);
  } catch (error) {
    showError(box, error, key() !== "");
  }
}

/** @param {any} form @param {Measured} first @param {AbortSignal} signal */
async function tokenLists(form, first, signal) {
  const described = await ask(`v1/space?model=${encodeURIComponent(first.served.id)}`, { signal });
  const side = described.parts.cut;
  const list = async (/** @type {string[]} */ texts, /** @type {any} */ options, /** @type {any} */ found) => {
    const tokens = await ask("tokenize", { body: { inputs: texts, input_type: options.input_type, model: first.served.id }, signal });
    const prompt = promptOf(first.card, options.input_type);
    return node("ol", { class: "texts" }, texts.map((text, index) => tokenView(text, tokens[index], { seen: found.seen[index], dropped: found.dropped[index], prompt, side })));
  };
  const cut = [...first.texts.dropped, ...(first.queries?.dropped ?? [])].filter(Boolean).length;
  const about = `The model takes up to ${counted(first.served.max_tokens, "token")}. ${cut ? `${counted(cut, "text")} ${cut === 1 ? "is" : "are"} longer: the struck part did not reach it.` : "No text is longer."}`;
  return node("div", {}, node("p", {}, about),
    first.queries ? [node("h4", {}, "Queries"), await list(form.queries, first.queryOptions, first.queries), node("h4", {}, "Texts")] : null,
    await list(form.texts, first.options, first.texts));
}

/** @param {any} form @param {Measured} first */
function download(form, first) {
  const plain = (/** @type {any} */ found) => found.vectors.map((/** @type {Float32Array} */ vector) => Array.from(vector));
  const content = { model: first.served.id, version: first.served.version, space: first.texts.space, dimensions: first.size, input_type: first.options.input_type, texts: form.texts, vectors: plain(first.texts),
    ...(first.queries ? { query_input_type: first.queryOptions.input_type, queries: form.queries, query_vectors: plain(first.queries) } : {}) };
  save("vectors.json", JSON.stringify(content), "application/json");
}
