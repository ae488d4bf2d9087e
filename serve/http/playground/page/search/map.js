/** Map of the rows with its tools: layout, colors, legend, and the list of selected rows. */

import { choices, count, counted, excerpt, node } from "../dom.js";
import { showError } from "../errors.js";
import { call } from "../work/desk.js";
import { PointCanvas } from "./canvas.js";
import { colorBy } from "./colors.js";

const LISTED = 50;
const TIP = 160;

/** @typedef {{ texts: string[], names: string[], columns: string[][] }} Table */

export class RowMap {
  /** @param {any} box @param {Table} table */
  constructor(box, table) {
    this.table = table;
    this.coloring = colorBy(null, table.texts.length);
    /** Row of each point; null if point and row have the same number. @type {Uint32Array | null} */
    this.rows = null;
    /** @type {number[]} */
    this.found = [];
    this.tip = node("div", { class: "tip", hidden: true });
    this.about = node("p", { class: "hint", role: "status" });
    this.error = node("div");
    this.list = node("ol", { class: "picked", tabindex: "0", "aria-label": "Selected rows" });
    this.listAbout = node("p", { class: "hint", role: "status" });
    this.legend = node("div", { class: "legend", role: "group", "aria-label": "Legend: a button shows or hides its rows" });
    const canvas = node("canvas", { tabindex: "0", role: "application", "aria-describedby": "map-help", "aria-label": "Map of the rows" });
    this.canvas = new PointCanvas(/** @type {any} */ (canvas), { hover: (point, x, y) => this.showTip(point, x, y), pick: (points) => this.showPicked(points) });
    this.layout = node("select", { id: "map-layout", change: () => this.place() }, node("option", { value: "principal" }, "Principal components"), node("option", { value: "neighbors" }, "Neighbors (UMAP)"));
    this.color = node("select", { id: "map-color", change: () => this.paint() });
    choices(this.color, [["", "one color"], ...table.names.map((name, index) => [String(index), name])]);
    this.lasso = node("button", { type: "button", "aria-pressed": "false", click: () => this.toggleLasso() }, "Lasso");
    const button = (/** @type {string} */ label, /** @type {string} */ title, /** @type {() => void} */ click) => node("button", { type: "button", title, "aria-label": title, click }, label);
    box.replaceChildren(node("h3", {}, "Map"),
      node("div", { class: "toolbar" },
        node("div", {}, node("label", { for: "map-layout" }, "Layout"), this.layout),
        node("div", {}, node("label", { for: "map-color" }, "Color by"), this.color),
        button("+", "Zoom in", () => this.canvas.zoom(1.3)), button("−", "Zoom out", () => this.canvas.zoom(1 / 1.3)),
        button("Whole", "Show the whole map", () => this.canvas.reset()), this.lasso),
      node("div", { class: "map" }, canvas, this.tip), this.legend, this.about, this.error,
      node("p", { class: "hint", id: "map-help" }, "Drag to move, turn the wheel or pinch to zoom, draw with the lasso or with Shift to select. Keys: arrows move, + and − zoom, 0 shows all, Enter selects what is visible, Escape selects nothing."),
      this.listAbout, this.list);
    this.showPicked([]);
  }

  /** Compute the layout, and draw it. */
  async place() {
    const method = this.layout.value;
    this.about.textContent = "Computing the layout …";
    showError(this.error, null);
    try {
      const found = await call(method);
      if (method !== this.layout.value) return;
      this.rows = found.rows ?? null;
      this.canvas.setPlaces(found.places);
      this.about.textContent = method === "principal"
        ? `The two axes have ${(100 * found.share).toFixed(0)} % of the variance${found.used < this.table.texts.length ? `; ${count(found.used)} rows decided them` : ""}.`
        : `${counted(found.rows.length, "row")}${found.rows.length < this.table.texts.length ? `, an even sample of ${count(this.table.texts.length)}` : ""}. Rows near each other have similar vectors; distances between groups mean little.`;
      this.paint();
      this.showHits(this.found);
    } catch (error) {
      this.about.textContent = "";
      showError(this.error, error);
    }
  }

  /** Color the points, and draw the legend. */
  paint() {
    const { names, columns, texts } = this.table;
    const index = this.color.value === "" ? -1 : Number(this.color.value);
    this.coloring = colorBy(index < 0 ? null : columns[index], texts.length);
    const { groups, colors, sizes } = this.coloring;
    this.canvas.colors = colors;
    this.canvas.groups = this.rows ? Uint8Array.from(this.rows, (row) => groups[row]) : groups;
    this.canvas.hidden = new Set();
    this.canvas.draw();
    const entry = (/** @type {string} */ name, /** @type {number} */ group) => {
      const button = node("button", { type: "button", "aria-pressed": "true", "--dot": colors[group], click: () => this.toggle(group, button) }, node("i", {}), `${excerpt(name, 40)} (${count(sizes[group])})`);
      button.className = "plain";
      return button;
    };
    this.legend.replaceChildren(...(index < 0 ? [] : this.coloring.names.map(entry)));
    this.legend.setAttribute("aria-label", `Legend of ${index < 0 ? "the map" : names[index]}: a button shows or hides its rows`);
  }

  /** @param {number} group @param {any} button */
  toggle(group, button) {
    if (!this.canvas.hidden.delete(group)) this.canvas.hidden.add(group);
    button.setAttribute("aria-pressed", String(!this.canvas.hidden.has(group)));
    this.canvas.draw();
  }

  toggleLasso() {
    this.canvas.selecting = !this.canvas.selecting;
    this.lasso.setAttribute("aria-pressed", String(this.canvas.selecting));
  }

  /** Ring the points of rows that a search found. @param {number[]} rows */
  showHits(rows) {
    this.found = rows;
    const wanted = new Set(rows);
    this.canvas.hits = new Set(this.rows ? Array.from(this.rows.keys()).filter((point) => wanted.has(/** @type {Uint32Array} */ (this.rows)[point])) : rows);
    this.canvas.draw();
  }

  /** @param {number} point */
  rowOf(point) {
    return this.rows ? this.rows[point] : point;
  }

  /** @param {number} point @param {number} x @param {number} y */
  showTip(point, x, y) {
    this.tip.hidden = point < 0;
    if (point < 0) return;
    const row = this.rowOf(point);
    const group = this.color.value === "" ? "" : `${this.table.columns[Number(this.color.value)][row] || "(empty)"}: `;
    this.tip.textContent = group + excerpt(this.table.texts[row], TIP);
    const width = this.canvas.canvas.clientWidth;
    this.tip.style.left = x > width / 2 ? "auto" : `${x + 12}px`;
    this.tip.style.right = x > width / 2 ? `${width - x + 12}px` : "auto";
    this.tip.style.top = `${y + 10}px`;
  }

  /** @param {number[]} points */
  async showPicked(points) {
    const rows = points.map((point) => this.rowOf(point));
    this.listAbout.textContent = rows.length === 0 ? "" : `${counted(rows.length, "row")} selected${rows.length > LISTED ? `, the first ${LISTED} are listed` : ""}.`;
    const item = (/** @type {number} */ row) => node("li", { value: String(row + 1) }, excerpt(this.table.texts[row], 300));
    this.list.replaceChildren(...rows.slice(0, LISTED).map(item));
    this.list.hidden = rows.length === 0;
    if (rows.length !== 1) return;
    const near = await call("near", { row: rows[0], most: 5 });
    this.listAbout.textContent = "Row selected, with the five that are nearest to it in the full space.";
    this.list.append(...near.map((/** @type {any} */ { row, score }) => node("li", { value: String(row + 1) }, node("span", { class: "soft" }, `${score.toFixed(3)} `), excerpt(this.table.texts[row], 300))));
  }
}
