/** View "Search": rows of a file or of pasted text, their vectors, search, and a map. */

import { key } from "../api.js";
import { codeView } from "../code.js";
import { by, choices, count, counted, duration, excerpt, node } from "../dom.js";
import { isCancel, showError } from "../errors.js";
import { MOST_ROWS, readFile, readText, textColumn } from "../files/read.js";
import { modelChoices, modelOf, withOutput } from "../models.js";
import { call } from "../work/desk.js";
import { find } from "./find.js";
import { content, wordsOf } from "./highlight.js";
import { embedMany } from "./job.js";
import { RowMap } from "./map.js";

const PREVIEW = 3;
const SHOWN_COLUMNS = 4;

/**
 * What the view has, for the tests of the page.
 * @type {{ rows: import("../files/read.js").Rows | null, source: File | string | null, embedded: any, results: any[], map: RowMap | null }}
 */
export const state = { rows: null, source: null, embedded: null, results: [], map: null };

let embedding = new AbortController();
let searching = new AbortController();

export function start() {
  by("file").addEventListener("change", () => by("file").files[0] && load(by("file").files[0]));
  by("paste-use").addEventListener("click", () => load(by("paste").value));
  by("rows-header").addEventListener("change", () => load(state.source));
  by("embed").addEventListener("click", embed);
  by("embed-cancel").addEventListener("click", () => embedding.abort());
  by("search-form").addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    search();
  });
  const drop = by("drop");
  for (const kind of ["dragenter", "dragover"]) drop.addEventListener(kind, (/** @type {Event} */ event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  for (const kind of ["dragleave", "drop"]) drop.addEventListener(kind, () => drop.classList.remove("over"));
  drop.addEventListener("drop", (/** @type {DragEvent} */ event) => {
    event.preventDefault();
    const file = event.dataTransfer?.files[0];
    if (file) load(file);
    else if (event.dataTransfer) load(event.dataTransfer.getData("text"));
  });
}

export function models() {
  choices(by("search-model"), modelChoices(withOutput("vectors")));
  const rerankers = withOutput("scores").filter((model) => model.dimension === 1);
  choices(by("rerank"), [["", rerankers.length ? "nothing" : "no reranker is served"], ...modelChoices(rerankers)]);
  by("rerank").disabled = rerankers.length === 0;
  by("embed").disabled = withOutput("vectors").length === 0;
}

/** Read a file or pasted text, and show its first rows. @param {File | string | null} source */
async function load(source) {
  if (source === null) return;
  embedding.abort();
  showError(by("search-error"), null);
  try {
    const header = by("rows-header").checked;
    const rows = typeof source === "string" ? readText(source, header) : await readFile(source, header);
    state.rows = rows;
    state.source = source;
    const more = rows.total > MOST_ROWS ? ` The first ${count(MOST_ROWS)} are used.` : "";
    by("rows-about").textContent = `${typeof source === "string" ? "Pasted" : source.name}: ${counted(rows.total, "row")}, ${counted(rows.names.length, "column")}.${more}`;
    by("rows-preview").replaceChildren(
      node("thead", {}, node("tr", {}, rows.names.map((name) => node("th", { scope: "col" }, excerpt(name, 40))))),
      node("tbody", {}, Array.from({ length: Math.min(PREVIEW, rows.columns[0].length) }, (_, row) => node("tr", {}, rows.columns.map((column) => node("td", {}, excerpt(column[row], 120)))))));
    choices(by("rows-text"), rows.names.map((name, index) => [String(index), name]));
    by("rows-text").value = String(textColumn(rows));
    by("rows-header-box").hidden = rows.header === null;
    by("embed-status").textContent = "";
    by("rows").hidden = false;
  } catch (error) {
    by("rows").hidden = true;
    showError(by("search-error"), error);
  }
}

async function embed() {
  const { rows } = state;
  if (rows === null) return;
  embedding.abort();
  embedding = new AbortController();
  const model = modelOf(by("search-model").value);
  const text = Number(by("rows-text").value);
  const texts = rows.columns[text];
  const bar = by("embed-progress"), status = by("embed-status");
  busy(true);
  showError(by("search-error"), null);
  by("search-ready").hidden = true;
  bar.value = 0;
  status.textContent = "Waiting for the first vectors …";
  const started = performance.now();
  try {
    let begun = false;
    /** @type {import("./job.js").Progress & { space: string }} */
    const done = await embedMany(texts, { model: model.id }, {
      signal: embedding.signal,
      onVectors: (row, vectors) => {
        const size = vectors[0].length;
        if (!begun) call("begin", { rows: texts.length, size });
        begun = true;
        const values = new Float32Array(vectors.length * size);
        vectors.forEach((vector, index) => values.set(vector, index * size));
        call("put", { row, values }, [values.buffer]);
      },
      onProgress: (progress) => showProgress(progress, texts.length, (performance.now() - started) / 1000),
    });
    await call("end");
    const seconds = (performance.now() - started) / 1000;
    status.textContent = `${counted(texts.length, "row")} embedded in ${duration(seconds)}, ${counted(done.tokens, "token")}${done.cut ? `; ${counted(done.cut, "text")} longer than the model takes ${done.cut === 1 ? "was" : "were"} cut` : ""}.`;
    state.embedded = { model, texts, text, names: rows.names, columns: rows.columns, space: done.space };
    ready();
  } catch (error) {
    status.textContent = isCancel(error) ? "Cancelled." : "";
    showError(by("search-error"), error, key() !== "");
  } finally {
    busy(false);
  }
}

/** @param {boolean} active */
function busy(active) {
  by("embed").disabled = active;
  by("embed-cancel").hidden = by("embed-progress").hidden = !active;
}

/** @param {import("./job.js").Progress} progress @param {number} total @param {number} seconds */
function showProgress({ done, waiting }, total, seconds) {
  by("embed-progress").value = done / total;
  const speed = done / Math.max(seconds, 1e-3);
  by("embed-status").textContent = waiting
    ? `The server asks to wait: ${waiting} s. ${count(done)} of ${counted(total, "row")} are embedded.`
    : `${count(done)} of ${counted(total, "row")}, ${count(Math.round(speed))} a second, ${duration((total - done) / speed)} left`;
}

function ready() {
  const { model, names, columns, texts } = state.embedded;
  choices(by("search-type"), model.input_types.map((/** @type {string} */ type) => [type]));
  by("search-type").value = "query";
  by("results").replaceChildren();
  by("search-status").textContent = "";
  by("search-code").replaceChildren();
  by("search-ready").hidden = false;
  state.results = [];
  state.map = new RowMap(by("map"), { texts, names, columns });
  state.map.place();
  by("query").focus();
}

async function search() {
  const query = by("query").value.trim();
  if (!query) return;
  searching.abort();
  searching = new AbortController();
  const { signal } = searching;
  showError(by("search-query-error"), null);
  by("search-status").textContent = "Searching …";
  const started = performance.now();
  const { model, texts, names, columns } = state.embedded;
  try {
    const { results, requests } = await find(query, { model: model.id, type: by("search-type").value, reranker: by("rerank").value, count: Number(by("search-count").value), texts }, signal);
    if (signal.aborted) return;
    state.results = results;
    const wanted = wordsOf(query, texts);
    by("search-status").textContent = `${counted(results.length, "result")} among ${counted(texts.length, "row")} in ${Math.round(performance.now() - started)} ms`;
    by("results").replaceChildren(...results.map((result, index) => resultItem(result, index, { texts, names, columns, wanted })));
    state.map?.showHits(results.map(({ row }) => row));
    by("search-code").replaceChildren(codeView(requests));
  } catch (error) {
    if (isCancel(error)) return;
    by("search-status").textContent = "";
    showError(by("search-query-error"), error, key() !== "");
  }
}

/** @param {import("./find.js").Result} result @param {number} index @param {any} table */
function resultItem({ row, score, before, relevance, best }, index, { texts, names, columns, wanted }) {
  const { text } = state.embedded;
  const others = names.map((/** @type {string} */ name, /** @type {number} */ place) => ({ name, value: columns[place][row], place })).filter((/** @type {any} */ { place, value }) => place !== text && value !== "").slice(0, SHOWN_COLUMNS);
  return node("li", {},
    node("span", {}, `${index + 1}. `, node("span", { class: "score" }, relevance === null ? score.toFixed(4) : relevance.toFixed(4)),
      node("span", { class: "soft" }, relevance === null ? " cosine" : ` by the reranker; cosine ${score.toFixed(4)}, place ${before}`, ` · row ${count(row + 1)}`)),
    node("p", {}, content(texts[row], wanted, best)),
    others.length > 0 && node("p", { class: "hint" }, others.map((/** @type {any} */ { name, value }) => `${name}: ${excerpt(value, 80)}`).join(" · ")));
}
