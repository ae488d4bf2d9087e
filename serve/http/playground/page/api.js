/** Requests to the server, by its public API. The key is kept for this tab alone. */

import { GoneError, ServerError, isCancel } from "./errors.js";

/** Address of the server, with the prefix under which a proxy may show it: the page is at `PREFIX/playground`. */
export const base = new URL(".", document.baseURI);

const KEY = "key"; // the page /docs uses the same name

export const key = () => sessionStorage.getItem(KEY) ?? "";

/** @param {string} value */
export function setKey(value) {
  if (value) sessionStorage.setItem(KEY, value);
  else sessionStorage.removeItem(KEY);
}

/**
 * Send a request.
 * @param {string} path relative to the server's address
 * @param {{ body?: any, headers?: Record<string, string>, signal?: AbortSignal }} [options]
 * @returns {Promise<Response>} a successful answer
 * @throws {ServerError | GoneError | DOMException}
 */
export async function send(path, { body, headers = {}, signal } = {}) {
  const all = { ...headers };
  if (key()) all.authorization = `Bearer ${key()}`;
  if (body !== undefined) all["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(new URL(path, base), {
      method: body === undefined ? "GET" : "POST",
      headers: all,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
      cache: "no-store",
    });
  } catch (error) {
    if (isCancel(error)) throw error;
    throw new GoneError(String(error));
  }
  if (response.ok) return response;
  const text = await response.text().catch(() => "");
  let answer = null;
  try {
    answer = JSON.parse(text);
  } catch {
    // A proxy answers in its own form.
  }
  throw new ServerError(response.status, answer, response.headers);
}

/** @param {string} path @param {any} [options] @returns {Promise<any>} */
export async function ask(path, options) {
  const response = await send(path, options);
  try {
    return await response.json();
  } catch (error) {
    if (isCancel(error)) throw error;
    throw new GoneError(String(error)); // the answer broke off
  }
}

/** Return the numbers of base64 of little-endian float32. @param {string} text */
export function floats(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

/**
 * @typedef {{ model: string, dimensions?: number, input_type?: string, dtype?: string }} Options
 * @typedef {{ vectors: any[], scales: number[], seen: number[], dropped: number[], tokens: number, space: string, seconds: number, request: any }} Vectors
 */

/**
 * Return the vectors of some texts.
 * @param {string[]} input
 * @param {Options} options
 * @param {AbortSignal} [signal]
 * @returns {Promise<Vectors>}
 */
export async function embed(input, options, signal) {
  const plain = !options.dtype || options.dtype === "float32";
  const shown = { ...options, input, encoding_format: "float" };
  const started = performance.now();
  const answer = await ask("v1/embeddings", { body: plain ? { ...shown, encoding_format: "base64" } : shown, signal });
  const items = answer.data;
  return {
    vectors: items.map((/** @type {any} */ item) => (plain ? floats(item.embedding) : item.embedding)),
    scales: items.map((/** @type {any} */ item) => item.scale ?? 1),
    seen: items.map((/** @type {any} */ item) => item.tokens_seen),
    dropped: items.map((/** @type {any} */ item) => item.tokens_dropped),
    tokens: answer.usage.total_tokens,
    space: answer.space,
    seconds: (performance.now() - started) / 1000,
    request: { path: "v1/embeddings", body: shown },
  };
}

/** Statuses of the errors in a stream, whose answer has the status 200, by their types. @type {Record<string, number>} */
const STREAM_STATUS = { invalid_request_error: 400, rate_limit_error: 429 };

/**
 * Yield the lines of a streamed answer. The last line has the usage; an error in it is thrown.
 * @param {string[]} input
 * @param {Options} options
 * @param {AbortSignal} [signal]
 */
export async function* stream(input, options, signal) {
  const response = await send("v1/embeddings", {
    body: { ...options, input, encoding_format: "base64" },
    headers: { accept: "application/x-ndjson" },
    signal,
  });
  const reader = /** @type {ReadableStream} */ (response.body).pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let ended = false;
  for (;;) {
    let part;
    try {
      part = await reader.read();
    } catch (error) {
      if (isCancel(error)) throw error;
      throw new GoneError(String(error));
    }
    if (part.done) break;
    const pieces = (rest + part.value).split("\n");
    rest = pieces.pop() ?? "";
    for (const piece of pieces) {
      const line = JSON.parse(piece);
      if (line.error) throw new ServerError(STREAM_STATUS[line.error.type] ?? 503, line, new Headers());
      ended ||= line.object === "end";
      yield line;
    }
  }
  if (!ended) throw new GoneError("the stream broke off");
}
