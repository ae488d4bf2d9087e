/** Rows of a file or of pasted text: `Rows` with columns of strings. */

import { InputError } from "../errors.js";
import { readParquet } from "./parquet.js";

export const MOST_ROWS = 50_000;
const MOST_BYTES = 256 << 20;

/**
 * @typedef {{ kind: string, names: string[], columns: string[][], total: number, header: boolean | null }} Rows
 * `columns` has at most MOST_ROWS values each, `total` is the number of rows of the file, and `header` says whether the first row
 * gave the names; null where that is no question.
 */

/** Read a file by the end of its name. @param {File} file @param {boolean} header @returns {Promise<Rows>} */
export async function readFile(file, header) {
  if (file.size > MOST_BYTES) throw new InputError(`The file has ${Math.round(file.size / 2 ** 20)} MiB, and this page reads up to ${MOST_BYTES >> 20}. “fletcher-serve embed” embeds files of any size.`);
  const bytes = new Uint8Array(await file.arrayBuffer());
  const end = file.name.toLowerCase().split(".").pop() ?? "";
  if (end === "parquet" || (bytes.length > 8 && String.fromCharCode(...bytes.subarray(0, 4)) === "PAR1")) return { ...(await readParquet(bytes, MOST_ROWS)), kind: "parquet", header: null };
  let text;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes); // a byte order mark is left out
  } catch {
    throw new InputError(`${file.name} is not text in UTF-8. Save it as UTF-8, or give a parquet file.`);
  }
  return readText(text, header, end);
}

/**
 * Read text as csv, lines of JSON, or lines.
 * @param {string} text @param {boolean} header @param {string} [end] of the file's name; without it the first line decides
 * @returns {Rows}
 */
export function readText(text, header, end = guess(text)) {
  const rows = end === "csv" || end === "tsv" ? readTable(text, end === "tsv" ? "\t" : null, header)
    : end === "jsonl" || end === "ndjson" || end === "json" ? readJson(text, end)
      : readLines(text);
  if (!rows.total) throw new InputError("There is no row in it.");
  return rows;
}

/** @param {string} text */
function guess(text) {
  const first = text.trimStart();
  if (first.startsWith("[{")) return "json";
  if (first.startsWith("{")) return "jsonl";
  return first.split("\n", 1)[0].includes("\t") ? "tsv" : "txt";
}

/** @param {string} text @returns {Rows} */
function readLines(text) {
  const lines = text.split(/\r?\n/).filter((line) => line.trim() !== "");
  return { kind: "txt", names: ["text"], columns: [lines.slice(0, MOST_ROWS)], total: lines.length, header: null };
}

/** @param {string} text @param {string | null} separator @param {boolean} header @returns {Rows} */
function readTable(text, separator, header) {
  const records = parseTable(text, separator ?? separatorOf(text));
  const width = Math.max(0, ...records.slice(0, 1000).map((record) => record.length));
  const names = Array.from({ length: width }, (_, index) => (header && records[0]?.[index]) || `column ${index + 1}`);
  const body = header ? records.slice(1) : records;
  const used = body.slice(0, MOST_ROWS);
  return { kind: "csv", names: unique(names), columns: names.map((_, index) => used.map((record) => record[index] ?? "")), total: body.length, header };
}

/** @param {string} text */
function separatorOf(text) {
  const first = text.split("\n", 1)[0];
  return [",", ";", "\t", "|"].map((mark) => ({ mark, times: first.split(mark).length })).sort((a, b) => b.times - a.times)[0].mark;
}

/**
 * Return the records of csv as RFC 4180 has it: a value in quotes can hold separators, ends of lines and doubled quotes.
 * Lines without a character are left out.
 * @param {string} text @param {string} separator @returns {string[][]}
 */
export function parseTable(text, separator) {
  /** @type {string[][]} */
  const records = [];
  /** @type {string[]} */
  let record = [];
  let at = 0;
  while (at < text.length) {
    let value = "";
    if (text[at] === '"') {
      at++;
      for (;;) {
        const quote = text.indexOf('"', at);
        if (quote < 0) throw new InputError(`A quote is not closed in row ${records.length + 1}.`);
        value += text.slice(at, quote);
        at = quote + 1;
        if (text[at] !== '"') break;
        value += '"';
        at++;
      }
    }
    let stop = at;
    while (stop < text.length && text[stop] !== separator && text[stop] !== "\n" && text[stop] !== "\r") stop++;
    record.push(value + text.slice(at, stop));
    if (text[stop] === separator) {
      at = stop + 1;
      if (at === text.length) record.push("");
      else continue;
    }
    at = text[stop] === "\r" && text[stop + 1] === "\n" ? stop + 2 : stop + 1;
    if (record.length > 1 || record[0] !== "") records.push(record);
    record = [];
  }
  if (record.length) records.push(record);
  return records;
}

/** @param {string} text @param {string} end @returns {Rows} */
function readJson(text, end) {
  /** @type {any[]} */
  let values;
  if (end === "json") {
    try {
      values = JSON.parse(text);
    } catch (error) {
      throw new InputError(`The file is not JSON: ${error instanceof Error ? error.message : error}`);
    }
    if (!Array.isArray(values)) throw new InputError("The JSON is not a list of rows.");
  } else {
    values = text.split("\n").map((line, index) => ({ line, index })).filter(({ line }) => line.trim() !== "").map(({ line, index }) => {
      try {
        return JSON.parse(line);
      } catch {
        throw new InputError(`Line ${index + 1} is not JSON.`);
      }
    });
  }
  const used = values.slice(0, MOST_ROWS);
  if (used.every((value) => value === null || typeof value !== "object" || Array.isArray(value))) {
    return { kind: "jsonl", names: ["text"], columns: [used.map(asText)], total: values.length, header: null };
  }
  const names = [...new Set(used.slice(0, 1000).flatMap((value) => Object.keys(value ?? {})))];
  return { kind: "jsonl", names, columns: names.map((name) => used.map((value) => asText(value?.[name]))), total: values.length, header: null };
}

/** Return a value as text; none is empty. @param {any} value @returns {string} */
export const asText = (value) => (value === null || value === undefined ? "" : typeof value === "object" ? JSON.stringify(value) : String(value));

/** @param {string[]} names */
function unique(names) {
  const seen = new Map();
  return names.map((name) => {
    const times = (seen.get(name) ?? 0) + 1;
    seen.set(name, times);
    return times > 1 ? `${name} (${times})` : name;
  });
}

/** Return the index of the column that most probably has the texts: the one with the most different letters in its values. @param {Rows} rows */
export function textColumn({ names, columns }) {
  const size = (/** @type {string[]} */ column) => new Set(column.slice(0, 200)).size * column.slice(0, 200).reduce((sum, value) => sum + Math.min(value.length, 2000) * Number(Number.isNaN(Number(value))), 0);
  const named = names.findIndex((name) => /^(text|content|document|sentence|body|passage)$/i.test(name));
  if (named >= 0) return named;
  const sizes = columns.map(size);
  return sizes.indexOf(Math.max(...sizes));
}
