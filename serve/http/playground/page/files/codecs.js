/** Compression of Parquet's pages: none, Snappy, gzip and LZ4. */

import { InputError } from "../errors.js";

const NAMES = ["uncompressed", "snappy", "gzip", "lzo", "brotli", "lz4", "zstd", "lz4_raw"];

/** Largest page after decompression. */
const MOST = 1 << 30;

/**
 * Return the bytes of a page.
 * @param {number} codec Parquet's number @param {Uint8Array} bytes @param {number} size of the result
 * @returns {Promise<Uint8Array>}
 */
export async function decompress(codec, bytes, size) {
  if (size < 0 || size > MOST) throw new RangeError("a page is too large");
  if (codec === 0) return bytes;
  if (codec === 1) return snappy(bytes, size);
  if (codec === 2) return gzip(bytes, size);
  if (codec === 7) return lz4(bytes, size);
  throw new InputError(`The parquet file is compressed with ${NAMES[codec] ?? `the codec ${codec}`}, which this page does not read: write it with snappy, gzip, lz4_raw or uncompressed, or as csv.`);
}

/** @param {Uint8Array} bytes @param {number} size */
async function gzip(bytes, size) {
  const stream = new Blob([/** @type {any} */ (bytes)]).stream().pipeThrough(new DecompressionStream("gzip"));
  const found = new Uint8Array(await new Response(stream).arrayBuffer());
  if (found.length !== size) throw new RangeError("a page has another size than it says");
  return found;
}

/**
 * Decompress Snappy (google/snappy, format_description.txt).
 * @param {Uint8Array} bytes @param {number} size
 */
export function snappy(bytes, size) {
  const out = new Uint8Array(size);
  let at = 0, end = 0;
  while (bytes[at++] >= 128); // the size again, as a varint
  while (at < bytes.length) {
    const tag = bytes[at++];
    let length = (tag >> 2) + 1, offset = 0;
    switch (tag & 3) {
      case 0:
        if (length > 60) {
          const extra = length - 60;
          length = 1;
          for (let index = 0; index < extra; index++) length += bytes[at++] * 2 ** (8 * index);
        }
        if (at + length > bytes.length || end + length > size) throw new RangeError("a page is damaged");
        out.set(bytes.subarray(at, at + length), end);
        at += length;
        end += length;
        continue;
      case 1:
        length = ((tag >> 2) & 7) + 4;
        offset = ((tag >> 5) << 8) | bytes[at++];
        break;
      case 2:
        offset = bytes[at] | (bytes[at + 1] << 8);
        at += 2;
        break;
      default:
        offset = bytes[at] + bytes[at + 1] * 2 ** 8 + bytes[at + 2] * 2 ** 16 + bytes[at + 3] * 2 ** 24;
        at += 4;
    }
    end = repeat(out, end, offset, length);
  }
  if (end !== size) throw new RangeError("a page has another size than it says");
  return out;
}

/**
 * Decompress a block of LZ4 (lz4/lz4, doc/lz4_Block_format.md).
 * @param {Uint8Array} bytes @param {number} size
 */
export function lz4(bytes, size) {
  const out = new Uint8Array(size);
  let at = 0, end = 0;
  const more = (/** @type {number} */ length) => {
    if (length < 15) return length;
    let byte;
    do {
      byte = bytes[at++];
      length += byte;
    } while (byte === 255);
    return length;
  };
  while (at < bytes.length) {
    const token = bytes[at++];
    const literals = more(token >> 4);
    if (!(at + literals <= bytes.length && end + literals <= size)) throw new RangeError("a page is damaged");
    out.set(bytes.subarray(at, at + literals), end);
    at += literals;
    end += literals;
    if (at >= bytes.length) break;
    const offset = bytes[at] | (bytes[at + 1] << 8);
    at += 2;
    end = repeat(out, end, offset, more(token & 15) + 4);
  }
  if (end !== size) throw new RangeError("a page has another size than it says");
  return out;
}

/** Copy earlier bytes to the end; the two may overlap. @param {Uint8Array} out @param {number} end @param {number} offset @param {number} length */
function repeat(out, end, offset, length) {
  if (!(offset > 0 && offset <= end && end + length <= out.length)) throw new RangeError("a page is damaged");
  for (let index = 0; index < length; index++) out[end + index] = out[end + index - offset];
  return end + length;
}
