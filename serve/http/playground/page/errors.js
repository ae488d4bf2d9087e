/** Errors of requests, and words that say to people what happened and what to do. */

import { duration, node } from "./dom.js";

/** An answer that is not a success, in the form of any API of the server. */
export class ServerError extends Error {
  /** @param {number} status @param {any} body @param {Headers} headers */
  constructor(status, body, headers) {
    const detail = body && typeof body.error === "object" ? body.error : {};
    super(detail.message ?? (typeof body?.error === "string" ? body.error : body?.message) ?? `the server answered ${status}`);
    this.status = status;
    this.code = detail.code ?? null;
    this.requestId = headers.get("x-request-id");
    const seconds = Number(headers.get("retry-after"));
    /** Seconds after which a retry may succeed; null if a retry cannot. */
    this.retryAfter = headers.has("retry-after") && seconds >= 0 ? seconds : null;
  }
}

/** A request that got no answer: the server ended, or the network did. */
export class GoneError extends Error {}

/** An error of a file or of the person's own input, whose message is complete. */
export class InputError extends Error {}

/** Report whether the person has cancelled. @param {any} error */
export const isCancel = (error) => error?.name === "AbortError";

/** @param {any} error */
export const needsKey = (error) => error instanceof ServerError && error.status === 401;

/**
 * Say what happened and what to do.
 * @param {any} error
 * @param {boolean} [hasKey] whether a key was sent
 * @returns {{ title: string, advice: string }}
 */
export function explain(error, hasKey = false) {
  if (error instanceof InputError) return { title: error.message, advice: "" };
  if (error instanceof GoneError) {
    return { title: "The server does not answer.", advice: "Check that it still runs and that this device reaches it, then try again." };
  }
  if (!(error instanceof ServerError)) return { title: "This page failed.", advice: String(error?.message ?? error) };
  const wait = error.retryAfter === null ? "in a moment" : `in ${duration(error.retryAfter)}`;
  switch (error.status) {
    case 401:
      return hasKey
        ? { title: "The server does not accept this API key.", advice: "Check it, or ask the operator for another: it may be wrong, revoked or expired." }
        : { title: "This server needs an API key.", advice: "Enter it at the top of the page. It stays in this tab and is gone when the tab closes." };
    case 403:
      return { title: "This API key may not do that.", advice: error.message };
    case 404:
      return { title: "The server does not have this.", advice: error.message };
    case 408:
      return { title: "The texts took too long to arrive.", advice: "The connection is slow: send fewer texts at once." };
    case 413:
      return { title: "That is too much for one request.", advice: `${error.message}. Use fewer or shorter texts.` };
    case 429:
      return error.code === "rate_limit_exceeded"
        ? { title: `You are over a limit of this server. Try again ${wait}.`, advice: error.message }
        : { title: `The server has too much to do. Try again ${wait}.`, advice: error.message };
    case 503:
      return { title: `The server or the model is not ready. Try again ${wait}.`, advice: error.message };
    case 504:
      return { title: "The server did not finish in time.", advice: "Try again, or with fewer texts." };
    case 400:
    case 422:
      return { title: "The server refuses this request.", advice: error.message };
    default:
      return { title: `The server failed (${error.status}).`, advice: `${error.message}${error.requestId ? ` (${error.requestId})` : ""}` };
  }
}

/** Show an error in a box, or empty the box. @param {any} box @param {any} error @param {boolean} [hasKey] */
export function showError(box, error, hasKey = false) {
  if (!error || isCancel(error)) {
    box.replaceChildren();
    return;
  }
  const { title, advice } = explain(error, hasKey);
  box.replaceChildren(node("div", { class: "notice bad", role: "alert" }, node("p", {}, node("strong", {}, title)), advice && node("p", {}, advice)));
  if (!(error instanceof ServerError || error instanceof GoneError || error instanceof InputError)) console.error(error);
}
