/** Encodings of the values in Parquet's pages (apache/parquet-format, Encodings.md). */

import { InputError } from "../errors.js";
import { Reader } from "./thrift.js";

const NAMES = ["PLAIN", "", "PLAIN_DICTIONARY", "RLE", "BIT_PACKED", "DELTA_BINARY_PACKED", "DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY", "RLE_DICTIONARY", "BYTE_STREAM_SPLIT"];

/** Types by Parquet's numbers. */
const BOOLEAN = 0, INT32 = 1, INT64 = 2, INT96 = 3, FLOAT = 4, DOUBLE = 5, BYTES = 6, FIXED = 7;

/** @typedef {{ type: number, width: number, count: number, dictionary: any[] | null }} Form */

/**
 * Return the values of a page.
 * @param {Uint8Array} bytes @param {number} encoding Parquet's number @param {Form} form
 * @returns {any[]}
 */
export function values(bytes, encoding, form) {
  if (form.count === 0) return [];
  if (encoding === 0) return plain(bytes, form);
  if (encoding === 2 || encoding === 8) {
    const dictionary = form.dictionary;
    if (!dictionary) throw new RangeError("a page needs a dictionary, and there is none");
    return levels(bytes.subarray(1), bytes[0], form.count).map((index) => {
      if (index >= dictionary.length) throw new RangeError("a value is not in the dictionary");
      return dictionary[index];
    });
  }
  if (encoding === 3 && form.type === BOOLEAN) return levels(bytes.subarray(4), 1, form.count).map(Boolean);
  if (encoding === 5) return deltas(new Reader(bytes), form.count, form.type === INT32);
  if (encoding === 6) return sized(bytes, form.count);
  if (encoding === 7) return shared(bytes, form.count);
  throw new InputError(`The parquet file uses the encoding ${NAMES[encoding] ?? encoding}, which this page does not read: write it with the defaults of pandas or pyarrow.`);
}

/** @param {Uint8Array} bytes @param {Form} form */
function plain(bytes, { type, width, count }) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const each = (/** @type {(at: number) => any} */ read, /** @type {number} */ size) => Array.from({ length: count }, (_, index) => read(index * size));
  switch (type) {
    case BOOLEAN: return Array.from({ length: count }, (_, index) => Boolean((view.getUint8(index >> 3) >> (index & 7)) & 1));
    case INT32: return each((at) => view.getInt32(at, true), 4);
    case INT64: return each((at) => view.getBigInt64(at, true), 8);
    case INT96: return each((at) => julian(view.getUint32(at + 8, true), view.getBigUint64(at, true)), 12);
    case FLOAT: return each((at) => view.getFloat32(at, true), 4);
    case DOUBLE: return each((at) => view.getFloat64(at, true), 8);
    case FIXED: return each((at) => bytes.subarray(at, at + width), width);
    case BYTES: {
      let at = 0;
      return Array.from({ length: count }, () => {
        const length = view.getUint32(at, true);
        at += 4 + length;
        if (at > bytes.length) throw new RangeError("a text is longer than its page");
        return bytes.subarray(at - length, at);
      });
    }
    default: throw new RangeError(`the type ${type} is not known`);
  }
}

/** Return the time of a day by Julian's count and its nanoseconds. @param {number} day @param {bigint} nanoseconds */
function julian(day, nanoseconds) {
  return new Date((day - 2_440_588) * 86_400_000 + Number(nanoseconds / 1_000_000n)).toISOString().replace("T", " ").replace(/(\.000)?Z$/, "");
}

/**
 * Read the hybrid of runs and packed bits.
 * @param {Uint8Array} bytes @param {number} width bits of a value @param {number} count
 * @returns {number[]}
 */
export function levels(bytes, width, count) {
  if (width > 32) throw new RangeError("a value has too many bits");
  /** @type {number[]} */
  const found = [];
  const reader = new Reader(bytes);
  while (found.length < count) {
    const head = reader.varint();
    if (head % 2) {
      const packed = Math.floor(head / 2) * 8;
      const from = reader.at;
      for (let index = 0; index < packed && found.length < count; index++) found.push(Number(bitsAt(bytes, from * 8 + index * width, width)));
      reader.at = from + (packed * width) / 8;
    } else {
      let value = 0;
      for (let index = 0; index < Math.ceil(width / 8); index++) value += reader.byte() * 2 ** (8 * index);
      const times = Math.min(head / 2, count - found.length);
      if (!times) throw new RangeError("a run is empty");
      for (let index = 0; index < times; index++) found.push(value);
    }
  }
  return found;
}

/** @param {Uint8Array} bytes @param {number} from first bit @param {number} width at most 32 */
function bitsAt(bytes, from, width) {
  let value = 0, factor = 1;
  for (let bit = from; bit < from + width; ) {
    const byte = bytes[bit >> 3];
    if (byte === undefined) throw new RangeError("the bytes end too soon");
    const taken = Math.min(8 - (bit & 7), from + width - bit);
    value += ((byte >> (bit & 7)) & ((1 << taken) - 1)) * factor;
    factor *= 2 ** taken;
    bit += taken;
  }
  return value;
}

/** Read DELTA_BINARY_PACKED. @param {Reader} reader @param {number} count @param {boolean} small whether values are numbers and not BigInt */
function deltas(reader, count, small) {
  const block = reader.varint(), miniblocks = reader.varint();
  const total = reader.varint();
  if (total < count || !miniblocks || block % miniblocks || !block) throw new RangeError("a page of differences is damaged");
  const size = block / miniblocks;
  const signed = () => {
    let value = 0n, shift = 0n;
    for (;;) {
      const byte = BigInt(reader.byte());
      value |= (byte & 127n) << shift;
      if (byte < 128n) return (value >> 1n) ^ -(value & 1n);
      shift += 7n;
    }
  };
  let last = signed();
  const found = [last];
  while (found.length < total) {
    const least = signed();
    const widths = Array.from({ length: miniblocks }, () => reader.byte());
    for (const width of widths) {
      if (found.length >= total) break;
      for (let index = 0; index < size && found.length < total; index++) {
        const from = reader.at * 8 + index * width;
        let delta = 0n;
        for (let bit = 0; bit < width; bit += 32) delta |= BigInt(bitsAt(reader.bytes, from + bit, Math.min(32, width - bit))) << BigInt(bit);
        last = BigInt.asIntN(64, last + least + delta);
        found.push(last);
      }
      reader.at += (size * width) / 8;
    }
  }
  return small ? found.map((value) => Number(BigInt.asIntN(32, value))) : found;
}

/** Read DELTA_LENGTH_BYTE_ARRAY. @param {Uint8Array} bytes @param {number} count */
function sized(bytes, count) {
  const reader = new Reader(bytes);
  return deltas(reader, count, true).map((length) => take(reader, Number(length)));
}

/** @param {Reader} reader @param {number} length */
function take(reader, length) {
  if (!(length >= 0 && reader.at + length <= reader.bytes.length)) throw new RangeError("a text is longer than its page");
  reader.at += length;
  return reader.bytes.subarray(reader.at - length, reader.at);
}

/** Read DELTA_BYTE_ARRAY: each text begins as the one before. @param {Uint8Array} bytes @param {number} count */
function shared(bytes, count) {
  const reader = new Reader(bytes);
  const prefixes = deltas(reader, count, true);
  const lengths = deltas(reader, count, true);
  let last = new Uint8Array();
  return lengths.map((length, index) => {
    const prefix = Number(prefixes[index]);
    if (prefix > last.length) throw new RangeError("a text begins as none before it");
    const next = new Uint8Array(prefix + Number(length));
    next.set(last.subarray(0, prefix));
    next.set(take(reader, Number(length)), prefix);
    last = next;
    return next;
  });
}
