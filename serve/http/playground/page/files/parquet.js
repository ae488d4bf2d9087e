/**
 * Reader of Parquet files with flat columns (apache/parquet-format). It reads what pandas, pyarrow, DuckDB and datasets write by
 * default, and refuses the rest by name.
 */

import { InputError } from "../errors.js";
import { decompress } from "./codecs.js";
import { levels, values } from "./encodings.js";
import { Reader } from "./thrift.js";

const MAGIC = 0x31524150; // "PAR1"

/** Most values of a page: writers end a page after a megabyte, or some ten thousand values. */
const MOST_VALUES = 1 << 24;

/**
 * Read a file.
 * @param {Uint8Array} bytes @param {number} most rows to read
 * @returns {Promise<{ names: string[], columns: string[][], total: number }>}
 */
export async function readParquet(bytes, most) {
  try {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    if (bytes.length < 12 || view.getUint32(bytes.length - 4, true) !== MAGIC) throw new RangeError("it does not end as a parquet file does");
    const length = view.getUint32(bytes.length - 8, true);
    if (length > bytes.length - 12) throw new RangeError("its description is longer than the file");
    const file = new Reader(bytes, bytes.length - 8 - length).struct();
    const leaves = leavesOf(file[2]);
    /** @type {string[][]} */
    const columns = leaves.map(() => []);
    for (const group of file[4]) {
      for (const [index, leaf] of leaves.entries()) {
        if (leaf.flat && columns[index].length < most) await readColumn(bytes, group[1][leaf.place][3], leaf, columns[index], Math.min(most - columns[index].length, group[3]));
      }
      if (columns.every((column, index) => !leaves[index].flat || column.length >= most)) break;
    }
    const flat = leaves.map((_, index) => index).filter((index) => leaves[index].flat);
    if (!flat.length) throw new InputError("The parquet file has no column of plain values.");
    return { names: flat.map((index) => leaves[index].name), columns: flat.map((index) => columns[index]), total: file[3] };
  } catch (error) {
    if (error instanceof InputError) throw error;
    throw new InputError(`The parquet file is damaged or of an unknown form: ${error instanceof Error ? error.message : error}`);
  }
}

/**
 * @typedef {{ name: string, place: number, flat: boolean, optional: boolean, type: number, width: number, show: (value: any) => string }} Leaf
 */

/** Return the columns of values. Those inside lists and structs are not flat. @param {any[]} schema @returns {Leaf[]} */
function leavesOf(schema) {
  /** @type {Leaf[]} */
  const leaves = [];
  let at = 1;
  const walk = (/** @type {boolean} */ top) => {
    const element = schema[at++];
    const children = element[5] ?? 0;
    if (children) {
      for (let index = 0; index < children; index++) walk(false);
      return;
    }
    leaves.push({ name: new TextDecoder().decode(element[4]), place: leaves.length, flat: top && element[3] !== 2, optional: element[3] === 1, type: element[1], width: element[2] ?? 0, show: shower(element) });
  };
  for (let index = 0; index < (schema[0][5] ?? 0); index++) walk(true);
  return leaves;
}

/** Return the function that shows a value of a column as text. @param {any} element */
function shower(element) {
  const logical = element[10] ?? {}, converted = element[6];
  const scale = logical[5] ? logical[5][1] ?? 0 : converted === 5 ? element[7] ?? 0 : null;
  if (scale !== null) return (/** @type {any} */ value) => decimal(value instanceof Uint8Array ? signed(value) : BigInt(value), scale);
  const bytesAs = new TextDecoder();
  if (element[1] === 6 || element[1] === 7) {
    const text = element[1] === 6 && (converted === undefined || converted === 0 || converted === 4 || converted === 19 || logical[1] || logical[4] || logical[11]);
    return (/** @type {Uint8Array} */ value) => (text ? bytesAs.decode(value) : Array.from(value, (byte) => byte.toString(16).padStart(2, "0")).join(""));
  }
  if (logical[6] || converted === 6) return (/** @type {number} */ days) => new Date(days * 86_400_000).toISOString().slice(0, 10);
  const unit = logical[8]?.[2] ?? (converted === 9 ? { 1: true } : converted === 10 ? { 2: true } : null);
  if (unit) {
    const divisor = unit[1] ? 1n : unit[2] ? 1000n : 1_000_000n;
    return (/** @type {bigint} */ value) => {
      const date = new Date(Number(BigInt(value) / divisor));
      return Number.isNaN(date.getTime()) ? String(value) : date.toISOString().replace("T", " ").replace(/(\.000)?Z$/, "");
    };
  }
  return (/** @type {any} */ value) => String(value);
}

/** Return the integer of bytes in two's complement, the highest byte first. @param {Uint8Array} bytes */
const signed = (bytes) => BigInt.asIntN(8 * bytes.length, bytes.reduce((sum, byte) => (sum << 8n) | BigInt(byte), 0n));

/** Return an integer with a point before its last digits. @param {bigint} value @param {number} scale */
function decimal(value, scale) {
  const digits = String(value < 0n ? -value : value).padStart(scale + 1, "0");
  return (value < 0n ? "-" : "") + (scale ? `${digits.slice(0, -scale)}.${digits.slice(-scale)}` : digits);
}

/** @param {Uint8Array} bytes @param {any} chunk ColumnMetaData @param {Leaf} leaf @param {string[]} column @param {number} wanted */
async function readColumn(bytes, chunk, leaf, column, wanted) {
  const reader = new Reader(bytes, Math.min(chunk[9], chunk[11] || chunk[9]));
  /** @type {any[] | null} */
  let dictionary = null;
  const end = column.length + wanted;
  while (column.length < end) {
    const page = reader.struct();
    const packed = reader.bytes.subarray(reader.at, reader.at + page[3]);
    if (packed.length !== page[3]) throw new RangeError("a page is longer than the file");
    if ((page[5] ?? page[7] ?? page[8] ?? {})[1] > MOST_VALUES) throw new RangeError("a page has too many values");
    reader.at += page[3];
    if (page[1] === 2) {
      dictionary = values(await decompress(chunk[4], packed, page[2]), page[7][2] === 2 ? 0 : page[7][2], { ...leaf, count: page[7][1], dictionary });
    } else if (page[1] === 0) {
      const content = await decompress(chunk[4], packed, page[2]);
      readPage(column, leaf, { body: content, count: page[5][1], encoding: page[5][2], sized: true, dictionary, defined: null }, end);
    } else if (page[1] === 3) {
      const head = page[8];
      const levelBytes = (head[5] ?? 0) + (head[6] ?? 0);
      const body = packed.subarray(levelBytes);
      const content = head[7] === false ? body : await decompress(chunk[4], body, page[2] - levelBytes);
      const defined = leaf.optional ? levels(packed.subarray(head[6] ?? 0, levelBytes), 1, head[1]) : null;
      readPage(column, leaf, { body: content, count: head[1], encoding: head[4], sized: false, dictionary, defined }, end);
    }
  }
}

/**
 * Append the values of a page; a value that is null is empty text.
 * @param {string[]} column @param {Leaf} leaf
 * @param {{ body: Uint8Array, count: number, encoding: number, sized: boolean, dictionary: any[] | null, defined: number[] | null }} page
 * @param {number} end
 */
function readPage(column, leaf, { body, count, encoding, sized, dictionary, defined }, end) {
  if (sized && leaf.optional) {
    const length = new DataView(body.buffer, body.byteOffset, body.byteLength).getUint32(0, true);
    defined = levels(body.subarray(4, 4 + length), 1, count);
    body = body.subarray(4 + length);
  }
  const present = defined ? defined.reduce((sum, level) => sum + level, 0) : count;
  const found = values(body, encoding, { ...leaf, count: present, dictionary });
  let next = 0;
  for (let index = 0; index < count && column.length < end; index++) column.push(defined && !defined[index] ? "" : leaf.show(found[next++]));
}
