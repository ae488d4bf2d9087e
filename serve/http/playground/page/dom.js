/** Elements and numbers for people. Text is always set as text: nothing that a server or a file says becomes markup. */

/** @param {string} id @returns {any} */
export const by = (id) => document.getElementById(id);

/**
 * Make an element. Values of `attributes` that are functions are listeners; `false`, null and undefined leave an attribute out.
 * @param {string} tag
 * @param {Record<string, any>} [attributes]
 * @param {...any} children
 * @returns {any}
 */
export function node(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (name.startsWith("--")) element.style.setProperty(name, value);
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Put choices into a select, and keep the chosen one if it is still there. @param {any} select @param {string[][]} choices */
export function choices(select, choices) {
  const before = select.value;
  select.replaceChildren(...choices.map(([value, text]) => node("option", { value }, text ?? value)));
  if (choices.some(([value]) => value === before)) select.value = before;
}

const whole = new Intl.NumberFormat("en-US");

/** @param {number} value */
export const count = (value) => whole.format(value);

/** Return a count with its noun. @param {number} value @param {string} one @param {string} [many] */
export const counted = (value, one, many = one + "s") => `${count(value)} ${value === 1 ? one : many}`;

/** Return a number with three digits. @param {number | null | undefined} value */
export function short(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value === 0 || Math.abs(value) >= 100) return whole.format(Math.round(value));
  return Math.abs(value) < 0.001 ? value.toExponential(1) : String(Number(value.toPrecision(3)));
}

/** @param {number | null | undefined} seconds */
export const milliseconds = (seconds) => (seconds === null || seconds === undefined ? "–" : `${short(seconds * 1000)} ms`);

/** @param {number} seconds */
export function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

/** @param {string} text @param {number} length */
export const excerpt = (text, length) => (text.length > length ? text.slice(0, length - 1) + "…" : text);

/** Return the nonempty lines of a text. @param {string} text */
export const lines = (text) => text.split(/\r?\n/).filter((line) => line.trim() !== "");

/** Make a table of a head and rows, whose first cells are heads of rows. @param {string} caption @param {any[]} head @param {any[][]} rows */
export function table(caption, head, rows) {
  return node("div", { class: "scroll wordy", tabindex: "0", role: "region", "aria-label": caption },
    node("table", {},
      node("caption", {}, caption),
      node("thead", {}, node("tr", {}, head.map((cell) => node("th", { scope: "col" }, cell)))),
      node("tbody", {}, rows.map(([first, ...rest]) =>
        node("tr", {}, node("th", { scope: "row" }, first), rest.map((cell) => cell instanceof HTMLTableCellElement ? cell : node("td", {}, cell)))))));
}

/** Do something after a pause in which it was not asked for again. @param {() => void} action @param {number} pause in milliseconds */
export function settled(action, pause) {
  let timer = 0;
  const cancel = () => clearTimeout(timer);
  const ask = () => {
    cancel();
    timer = setTimeout(action, pause);
  };
  return { ask, cancel };
}

/** Offer a file to save. @param {string} name @param {string} content @param {string} type */
export function save(name, content, type) {
  const address = URL.createObjectURL(new Blob([content], { type }));
  node("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
