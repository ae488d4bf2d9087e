/** Live numbers of the server, from `/metrics`, while they are on the screen. */

import { send } from "../api.js";
import { milliseconds, node, short, table } from "../dom.js";
import { GoneError, ServerError, explain, isCancel } from "../errors.js";
import { codeView } from "../code.js";
import { parse, work } from "./prometheus.js";

const PAUSE = 2000;
const KEPT = 60;

/** Height and width of a chart in its own units. */
const WIDTH = 600, HEIGHT = 100;

const SVG = "http://www.w3.org/2000/svg";

/** @param {string} tag @param {Record<string, string>} attributes @param {...any} children */
function svg(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** @param {number | null} value */
const percent = (value) => (value === null ? "–" : `${Math.round(100 * value)} %`);

/**
 * Draw lines over the last minutes, from 0 to their largest value.
 * @param {string} title @param {{ name: string, values: (number | null)[] }[]} series @param {(value: number) => string} shown
 */
export function chart(title, series, shown) {
  const most = Math.max(...series.flatMap(({ values }) => values.filter((value) => value !== null)), 0);
  const length = Math.max(...series.map(({ values }) => values.length), 2);
  const path = (/** @type {(number | null)[]} */ values) => {
    let pen = "M";
    return values.map((value, index) => {
      if (value === null) {
        pen = "M";
        return "";
      }
      const end = values[index + 1] ?? null;
      const dot = pen === "M" && end === null ? "m-4 0h8" : ""; // a value alone is a short line
      const point = `${pen}${((index * WIDTH) / (length - 1)).toFixed(1)} ${(HEIGHT - (most ? (value / most) * (HEIGHT - 4) : 0) - 2).toFixed(1)}${dot}`;
      pen = "L";
      return point;
    }).join("");
  };
  const now = (/** @type {(number | null)[]} */ values) => values.findLast((value) => value !== null) ?? null;
  const words = series.map(({ name, values }) => `${name} ${now(values) === null ? "–" : shown(/** @type {number} */ (now(values)))}`).join(", ");
  return node("figure", { class: "card" },
    node("figcaption", {}, `${title} `, node("span", { class: "soft" }, `· up to ${shown(most)}`)),
    svg("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": `${title}: ${words}` },
      svg("line", { x1: "0", x2: String(WIDTH), y1: String(HEIGHT - 1), y2: String(HEIGHT - 1) }),
      ...series.map(({ values }, index) => svg("path", { class: `c${index}`, d: path(values) }))),
    node("div", { class: "legend" }, series.map(({ name, values }, index) => node("span", { class: `k${index}` }, node("i", {}), `${name} ${now(values) === null ? "–" : shown(/** @type {number} */ (now(values)))} `))));
}

/** Numbers that the box shows. @param {any} box */
export class Live {
  /** @param {any} box */
  constructor(box) {
    this.box = box;
    /** @type {import("./prometheus.js").Scrape | null} */
    this.last = null;
    /** @type {ReturnType<typeof work>[]} */
    this.history = [];
    this.timer = 0;
    this.aborting = new AbortController();
  }

  start() {
    this.stop();
    this.aborting = new AbortController();
    this.last = null;
    this.tick();
  }

  stop() {
    clearTimeout(this.timer);
    this.aborting.abort();
  }

  async tick() {
    const { signal } = this.aborting;
    try {
      const page = await (await send("metrics", { signal })).text();
      const scrape = parse(page, performance.now() / 1000);
      if (this.last) this.history = [...this.history, work(this.last, scrape)].slice(-KEPT);
      this.last = scrape;
      this.show();
    } catch (error) {
      if (isCancel(error)) return;
      this.last = null;
      this.refuse(error);
      if (!(error instanceof GoneError) && error instanceof ServerError && [401, 403].includes(error.status)) return;
    }
    this.timer = setTimeout(() => this.tick(), PAUSE);
  }

  /** @param {any} error */
  refuse(error) {
    const keyed = error instanceof ServerError && [401, 403].includes(error.status);
    const { title, advice } = explain(error);
    this.box.replaceChildren(node("h3", {}, "Live"),
      node("p", { class: "card", role: "status" }, keyed ? "The numbers of the server need an API key with the role monitor or admin. Everything else on this page works without it." : `${title} ${advice}`));
  }

  show() {
    const now = this.history[this.history.length - 1];
    if (!now) {
      this.box.replaceChildren(node("h3", {}, "Live"), node("p", { class: "soft" }, "Waiting for a second look at the numbers …"));
      return;
    }
    const number = (/** @type {string} */ name, /** @type {string} */ value) => node("div", {}, node("dt", {}, name), node("dd", {}, value));
    const series = (/** @type {(one: any) => number | null} */ pick) => this.history.map(pick);
    const open = this.box.querySelector("details")?.open;
    this.box.replaceChildren(
      node("h3", {}, "Live ", node("span", { class: "soft" }, `· the last ${now.seconds.toFixed(1)} s`)),
      node("dl", { class: "numbers card" },
        number("requests a second", short(now.requests)), number("texts a second", short(now.textsPerSecond)), number("tokens a second", short(now.tokensPerSecond)),
        number("tokens in the queue", short(now.queueTokens)), number("open requests", short(now.openRequests)), number("refused a second", short(now.refused)),
        number("batches a second", short(now.batches)), number("texts of a batch", short(now.textsOfBatch)), number("tokens of a batch", short(now.tokensOfBatch)),
        number("batches are full to", percent(now.filling)), number("padding", percent(now.padding)), number("vectors from the cache", percent(now.cacheHits)),
        number("connections", short(now.connections)), now.fronts ? number("front processes", short(now.fronts)) : null),
      table("Latency by stage", ["Stage", "A second", "Mean", "Half are below", "99 % are below"],
        now.stages.map(({ stage, perSecond, mean, p50, p99 }) => [stage, short(perSecond), milliseconds(mean), milliseconds(p50), milliseconds(p99)])),
      node("div", { class: "columns" },
        chart("Latency by stage, mean", now.stages.map(({ stage }, index) => ({ name: stage, values: series((one) => one.stages[index].mean) })), milliseconds),
        chart("Texts a second", [{ name: "texts", values: series((one) => one.textsPerSecond) }], short),
        chart("Tokens in the queue", [{ name: "tokens", values: series((one) => one.queueTokens) }], short)));
    if (!this.code) this.code = codeView([{ path: "metrics" }]);
    this.box.append(this.code);
    if (open) this.code.setAttribute("open", "");
  }
}
