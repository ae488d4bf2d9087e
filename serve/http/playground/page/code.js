/** A request as curl, Python and JavaScript. */

import { base, key } from "./api.js";
import { node } from "./dom.js";

/** @typedef {{ path: string, body?: any }} Request */

/** @param {string} text */
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** Return JSON that Python reads as its own values. @param {any} value @param {string} indent @returns {string} */
function python(value, indent) {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  const deeper = indent + "    ";
  if (Array.isArray(value)) return value.length ? `[\n${value.map((item) => `${deeper}${python(item, deeper)},\n`).join("")}${indent}]` : "[]";
  if (typeof value === "object") return `{\n${Object.entries(value).map(([name, item]) => `${deeper}${JSON.stringify(name)}: ${python(item, deeper)},\n`).join("")}${indent}}`;
  return JSON.stringify(value); // a string of JSON with its escapes means the same in Python, but for surrogates
}

/** @param {Request} request @param {{ url: string, keyed: boolean }} place */
function curl({ path, body }, { url, keyed }) {
  const parts = [`curl ${quoted(url + path)}`];
  if (keyed) parts.push(`-H "authorization: Bearer $FLETCHER_KEY"`);
  if (body !== undefined) parts.push(`-H 'content-type: application/json'`, `-d ${quoted(JSON.stringify(body))}`);
  return parts.join(" \\\n  ");
}

/** @param {Request} request @param {{ url: string, keyed: boolean }} place */
function pythonCode({ path, body }, { url, keyed }) {
  const headers = keyed ? `, headers={"authorization": "Bearer " + os.environ["FLETCHER_KEY"]}` : "";
  const call = body === undefined ? `httpx.get(${JSON.stringify(url + path)}${headers})` : `httpx.post(${JSON.stringify(url + path)}, json=body${headers})`;
  return `${keyed ? "import os\n\n" : ""}import httpx\n\n${body === undefined ? "" : `body = ${python(body, "")}\n`}answer = ${call}\nanswer.raise_for_status()\nprint(answer.json())`;
}

/** @param {Request} request @param {{ url: string, keyed: boolean }} place */
function javascript({ path, body }, { url, keyed }) {
  const headers = [body === undefined ? "" : `"content-type": "application/json"`, keyed ? `authorization: "Bearer " + process.env.FLETCHER_KEY` : ""].filter(Boolean).join(", ");
  const lines = [];
  if (body !== undefined) lines.push(`  method: "POST",`);
  if (headers) lines.push(`  headers: { ${headers} },`);
  if (body !== undefined) lines.push(`  body: JSON.stringify(${JSON.stringify(body, null, 2).replaceAll("\n", "\n  ")}),`);
  const options = lines.length ? `, {\n${lines.join("\n")}\n}` : "";
  return `const answer = await fetch(${JSON.stringify(url + path)}${options});\nif (!answer.ok) throw new Error(await answer.text());\nconsole.log(await answer.json());`;
}

const LANGUAGES = { curl, Python: pythonCode, JavaScript: javascript };

/** Return the code of a request in each language. @param {Request} request @param {{ url: string, keyed: boolean }} [place] */
export const codeOf = (request, place = { url: base.href, keyed: key() !== "" }) =>
  Object.fromEntries(Object.entries(LANGUAGES).map(([name, write]) => [name, write(request, place)]));

/** Show the code of the requests behind what is on the screen. @param {Request[]} requests */
export function codeView(requests) {
  if (!requests.length) return node("div");
  const text = node("code");
  const box = node("pre", { tabindex: "0", "aria-label": "Code" }, text);
  const codes = requests.map((request) => codeOf(request));
  let language = "curl", at = 0;
  const buttons = Object.keys(LANGUAGES).map((name) => node("button", { type: "button", click: () => { language = name; show(); } }, name));
  const which = node("select", { "aria-label": "Request", change: () => { at = Number(which.value); show(); } },
    requests.map(({ path }, index) => node("option", { value: String(index) }, `${index + 1}. ${path}`)));
  const copied = node("span", { role: "status", class: "soft" });
  const copy = node("button", { type: "button", click: async () => {
    try {
      await navigator.clipboard.writeText(codes[at][language]);
      copied.textContent = "copied";
    } catch {
      getSelection()?.selectAllChildren(text); // without TLS a browser lets no page write to the clipboard
      copied.textContent = "selected: copy it";
    }
  } }, "Copy");
  const show = () => {
    text.textContent = codes[at][language];
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.textContent === language));
    copied.textContent = "";
  };
  show();
  return node("details", { class: "code card" }, node("summary", {}, "As curl, Python or JavaScript"),
    node("div", { class: "actions" }, requests.length > 1 && which, buttons, copy, copied), box);
}
