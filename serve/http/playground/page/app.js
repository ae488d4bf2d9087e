/** Start of the page: the key, the models, and the three views. */

import { key, setKey } from "./api.js";
import { by } from "./dom.js";
import { needsKey, showError } from "./errors.js";
import { loadModels } from "./models.js";
import * as compare from "./compare/view.js";
import * as inside from "./inside/view.js";
import * as search from "./search/view.js";

/** @type {Record<string, { start: () => void, models: () => void, shown?: (visible: boolean) => void }>} */
const views = { compare, search, inside };

const chosen = () => (location.hash.slice(1) in views ? location.hash.slice(1) : "compare");

function show() {
  const name = chosen();
  for (const [other, view] of Object.entries(views)) {
    by(`view-${other}`).hidden = other !== name;
    view.shown?.(other === name);
  }
  for (const link of document.querySelectorAll("nav a")) {
    if (/** @type {HTMLElement} */ (link).dataset.view === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

async function connect() {
  by("key-forget").hidden = !key();
  try {
    await loadModels();
    showError(by("banner"), null);
    for (const view of Object.values(views)) view.models();
    document.body.dataset.ready = "yes";
  } catch (error) {
    document.body.dataset.ready = "no";
    showError(by("banner"), error, key() !== "");
    if (needsKey(error)) by("key").focus();
  }
}

by("key-form").addEventListener("submit", (/** @type {Event} */ event) => {
  event.preventDefault();
  setKey(by("key").value.trim());
  by("key").value = "";
  connect();
});
by("key-forget").addEventListener("click", () => {
  setKey("");
  connect();
});
addEventListener("hashchange", () => {
  if (location.hash === "#main") return; // the link that skips the head
  show();
  by("main").focus({ preventScroll: true });
});

for (const view of Object.values(views)) view.start();
show();
connect();
