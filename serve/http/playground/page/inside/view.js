/** View "Look inside": a model, the proof of its vectors, and the live numbers of the server. */

import { ask, key } from "../api.js";
import { codeView } from "../code.js";
import { by, choices, count, counted, node, table } from "../dom.js";
import { isCancel, showError } from "../errors.js";
import { cardOf, modelChoices, modelOf, models as served } from "../models.js";
import { checkCanary } from "./canary.js";
import { Live } from "./live.js";

/** The live numbers, for the tests of the page. @type {{ live: Live | null }} */
export const state = { live: null };

let visible = false;
let loading = new AbortController();

export function start() {
  state.live = new Live(by("live"));
  by("inside-model").addEventListener("change", () => show());
}

export function models() {
  choices(by("inside-model"), modelChoices(served()));
  if (visible) {
    show();
    state.live?.start();
  }
}

/** @param {boolean} now */
export function shown(now) {
  if (now === visible) return;
  visible = now;
  if (now && served().length) {
    show();
    state.live?.start();
  } else if (!now) {
    state.live?.stop();
    loading.abort();
  }
}

async function show() {
  loading.abort();
  loading = new AbortController();
  const { signal } = loading;
  const model = modelOf(by("inside-model").value);
  showError(by("inside-error"), null);
  if (!model) {
    by("inside-result").replaceChildren(node("p", {}, "The server has no model at this moment."));
    return;
  }
  try {
    const path = `v1/space?model=${encodeURIComponent(model.id)}`;
    const [described, space] = await Promise.all([cardOf(model.id), ask(path, { signal })]);
    if (signal.aborted) return;
    const section = (/** @type {string} */ title, /** @type {any[]} */ ...content) => node("section", { class: "card" }, node("h3", {}, title), content);
    by("inside-result").replaceChildren(
      section("Model card", list(cardLines(model, described))),
      section("Variants and measured accuracy", variantTable(described), node("p", { class: "hint" }, "The variant that runs is marked. Figures are those that the artifact has: of its verification against the model's own code, or of its quantization against float32.")),
      section("Canary and proof", canaryBox(model, space, signal)),
      section("Space", list([["identifier", node("code", {}, space.space)], ["artifact", node("code", {}, model.digest)], ...spaceLines(space.parts)])),
      codeView([{ path: `v1/models/${encodeURIComponent(model.id)}` }, { path: `v1/card?model=${encodeURIComponent(model.id)}` }, { path }]));
  } catch (error) {
    if (!isCancel(error)) showError(by("inside-error"), error, key() !== "");
  }
}

/** @param {any[][]} lines */
const list = (lines) => node("dl", {}, lines.filter(([, value]) => value !== "" && value !== null && value !== undefined).flatMap(([name, value]) => [node("dt", {}, name), node("dd", {}, value)]));

const OUTPUTS = /** @type {Record<string, string>} */ ({ vectors: "a vector of each text", scores: "scores of pairs", sparse: "a sparse vector of each text", token_vectors: "a vector of each token" });

/** @param {any} model @param {any} described @returns {any[][]} */
function cardLines(model, { card, version, calibration }) {
  const prompts = Object.entries(card.prompts ?? {});
  return [
    ["name", model.id],
    ["version", version],
    ["other names", model.names.filter((/** @type {string} */ name) => name !== model.id).join(", ")],
    ["gives", OUTPUTS[card.output] ?? card.output],
    ["family", card.family],
    ["license", card.licence],
    ["sources", (card.sources ?? []).join(", ")],
    ["revision", card.revision],
    [card.output === "vectors" ? "dimensions" : "size", model.dimensions.map(count).join(", ")],
    ["longest text", counted(model.max_tokens, "token")],
    ["pooling", (card.pooling ?? []).join(" and ")],
    ["length of vectors", card.output === "vectors" ? (card.normalize ? "1" : "as they come") : ""],
    ["similarity", card.similarity],
    ["prompts", prompts.length ? node("ul", { class: "plain" }, prompts.map(([name, prompt]) => node("li", {}, `${name}: `, node("code", {}, JSON.stringify(prompt))))) : "none"],
    ["calibration", calibration ? `${calibration.method}, from ${counted(calibration.pairs, "pair")}, expected error ${(100 * calibration.error).toFixed(1)} %` : "none"],
    ["runs on", model.provider],
  ];
}

/** Titles of the figures of an artifact. */
const FIGURES = /** @type {Record<string, string>} */ ({ cosine_min: "smallest cosine", cosine_mean: "mean cosine", max_abs: "largest difference", batch_max_abs: "difference alone and in a batch", providers_max_abs: "difference of two providers", texts: "texts" });

/** @param {any} described */
function variantTable({ variants, variant }) {
  if (!variants.length) return node("p", {}, "The server does not know the artifact's variants.");
  const figures = [...new Set(variants.flatMap((/** @type {any} */ one) => Object.keys(one.measured)))];
  const tolerance = (/** @type {any} */ { min_cosine, max_abs }) => [min_cosine === undefined || min_cosine === null ? "" : `cosine ≥ ${min_cosine}`, max_abs === undefined || max_abs === null ? "" : `difference ≤ ${max_abs}`].filter(Boolean).join(", ");
  const shown = (/** @type {number | undefined} */ value) => (value === undefined ? "–" : Number.isInteger(value) ? count(value) : value > 0.9 ? value.toFixed(7) : value.toExponential(1));
  return table("Variants of the artifact", ["Variant", "Canary at export", "Must reach", ...figures.map((name) => FIGURES[name] ?? name.replaceAll("_", " "))],
    variants.map((/** @type {any} */ one) => [
      one.name === variant ? node("span", {}, node("strong", {}, one.name), " ", node("span", { class: "good" }, "runs")) : one.name,
      one.canary, tolerance(one.tolerance), ...figures.map((name) => shown(one.measured[name])),
    ]));
}

/** Return a bound without the noise of its last digits. @param {number} value */
const plain = (value) => String(Number(value.toPrecision(8)));

/** @param {any} model @param {any} space @param {AbortSignal} signal */
function canaryBox(model, space, signal) {
  const { bounds } = model;
  const status = node("div", { role: "status" });
  const button = node("button", { type: "button", disabled: model.output !== "vectors", click: async () => {
    button.disabled = true;
    status.replaceChildren("Computing …");
    try {
      const { passed, worst, largest, texts } = await checkCanary(model, space, signal);
      status.replaceChildren(node("span", { class: passed ? "good" : "wrong" }, passed ? "Passed: " : "Failed: "),
        `${counted(texts, "text")}, smallest cosine ${worst.toFixed(7)}, largest difference of an element ${largest.toExponential(1)}.`);
    } catch (error) {
      showError(status, error, key() !== "");
    } finally {
      button.disabled = false;
    }
  } }, "Check the canary now");
  const distance = (/** @type {any} */ one) => {
    if (!one) return "";
    const allowed = [one.min_cosine !== undefined ? `cosine ≥ ${plain(one.min_cosine)}` : "", one.max_abs !== undefined ? `difference ≤ ${one.max_abs}` : ""].filter(Boolean).join(", ");
    const measured = [one.measured_cosine !== undefined ? `cosine ${one.measured_cosine.toFixed(7)}` : "", one.measured_abs !== undefined ? `difference ${one.measured_abs.toExponential(1)}` : ""].filter(Boolean).join(", ");
    return `${measured ? `${measured}${one.measured_on ? ` on ${one.measured_on}` : ""}` : "not measured"}${allowed ? ` (allowed: ${allowed})` : ""}`;
  };
  return node("div", {},
    list([["proof", model.proof], ["canary", `${counted(space.canary.texts.length, "text")}, ${space.canary.origin}`],
      ...(bounds ? [["from the authors' model", distance(bounds.reference)], ["alone and in a batch", distance(bounds.batch)], ["two providers", distance(bounds.providers)], ["this session's canary", distance(bounds.session)]] : [])]),
    node("div", { class: "actions" }, button, status));
}

/** @param {any} parts @returns {any[][]} */
const spaceLines = (parts) => Object.entries(parts).filter(([name]) => !["prompts", "late_interaction", "logit_score"].includes(name)).map(([name, value]) => [name.replaceAll("_", " "), typeof value === "string" && value.length > 24 ? node("code", {}, value) : Array.isArray(value) ? value.join(", ") : String(value)]);
