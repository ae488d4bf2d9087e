/** Job that embeds many texts: in streams of some hundred, with progress, cancelling, and waits when the server asks for them. */

import { floats, stream } from "../api.js";
import { ServerError } from "../errors.js";

/** Texts and characters of a stream: the server begins to answer before it has read much. */
const MOST_TEXTS = 2048;
const MOST_CHARACTERS = 4 << 20;

/** Vectors that are handed over together. */
const TOGETHER = 64;

/** Attempts at a stream that the server refuses for the moment. */
const ATTEMPTS = 6;

/**
 * @typedef {{ done: number, cut: number, tokens: number, waiting: number }} Progress `waiting` has seconds until the next attempt
 */

/**
 * Embed texts.
 * @param {string[]} texts @param {import("../api.js").Options} options
 * @param {{ signal: AbortSignal, onVectors: (row: number, vectors: Float32Array[]) => void, onProgress: (progress: Progress) => void }} job
 * @returns {Promise<Progress & { space: string }>}
 * @throws {ServerError} and the errors of `stream`
 */
export async function embedMany(texts, options, { signal, onVectors, onProgress }) {
  const progress = { done: 0, cut: 0, tokens: 0, waiting: 0 };
  let most = MOST_TEXTS, attempt = 0, space = "";
  while (progress.done < texts.length) {
    const first = progress.done;
    const part = partOf(texts, first, most);
    try {
      /** @type {Float32Array[]} */
      let vectors = [];
      let tokens = 0, cut = 0; // of these vectors
      for await (const line of stream(part, options, signal)) {
        if (line.object === "end") {
          if (space && line.space !== space) throw new ServerError(412, { error: { message: "the model was replaced by one of another space while the rows were embedded: embed them again" } }, new Headers());
          space = line.space;
          continue;
        }
        vectors.push(floats(line.embedding));
        tokens += line.tokens_seen;
        cut += Number(line.tokens_dropped > 0);
        if (vectors.length < TOGETHER && progress.done + vectors.length < first + part.length) continue;
        onVectors(progress.done, vectors);
        progress.done += vectors.length;
        progress.tokens += tokens;
        progress.cut += cut;
        vectors = [];
        tokens = cut = 0;
        onProgress(progress);
      }
      attempt = 0;
    } catch (error) {
      if (!(error instanceof ServerError) || ++attempt >= ATTEMPTS) throw error;
      if (error.status === 413 && most > 1) most = Math.ceil(part.length / 2);
      else if (error.status === 429 || error.status === 503) await pause(error.retryAfter ?? 2 ** attempt, signal, (left) => onProgress({ ...progress, waiting: left }));
      else throw error;
    }
  }
  return { ...progress, space };
}

/** @param {string[]} texts @param {number} first @param {number} most */
function partOf(texts, first, most) {
  let end = first, characters = 0;
  while (end < texts.length && end - first < most && (end === first || characters + texts[end].length <= MOST_CHARACTERS)) characters += texts[end++].length;
  return texts.slice(first, end);
}

/** Wait some seconds, and report each of them. @param {number} seconds @param {AbortSignal} signal @param {(left: number) => void} report */
export async function pause(seconds, signal, report) {
  for (let left = Math.ceil(seconds); left > 0; left--) {
    report(left);
    await new Promise((resolve, reject) => {
      const timer = setTimeout(resolve, 1000);
      signal.addEventListener("abort", () => {
        clearTimeout(timer);
        reject(new DOMException("cancelled", "AbortError"));
      }, { once: true });
    });
  }
}
