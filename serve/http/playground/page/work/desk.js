/** The worker of the page, whose operations are called like functions that answer later. */

import { base } from "../api.js";

const address = new URL("playground/work/worker.js", base).href;

/** The policy of the page lets only this script be started by its address. */
function scriptAddress() {
  const types = /** @type {any} */ (globalThis).trustedTypes;
  if (!types) return address;
  return types.createPolicy("fletcher-worker", { createScriptURL: () => address }).createScriptURL("");
}

/** @type {Worker | null} */
let worker = null;
let calls = 0;

/** @type {Map<number, { resolve: (value: any) => void, reject: (error: Error) => void }>} */
const open = new Map();

/**
 * Call an operation of `worker.js`.
 * @param {string} operation @param {any} [values] @param {Transferable[]} [moved]
 * @returns {Promise<any>}
 */
export function call(operation, values = {}, moved = []) {
  if (worker === null) {
    worker = new Worker(/** @type {any} */ (scriptAddress()), { type: "module" });
    worker.addEventListener("message", ({ data }) => {
      const waiting = open.get(data.id);
      open.delete(data.id);
      if (data.error) waiting?.reject(new Error(data.error));
      else waiting?.resolve(data.value);
    });
    worker.addEventListener("error", (event) => {
      for (const waiting of open.values()) waiting.reject(new Error(event.message || "the worker did not start"));
      open.clear();
    });
  }
  const id = calls++;
  worker.postMessage({ id, operation, ...values }, moved);
  return new Promise((resolve, reject) => open.set(id, { resolve, reject }));
}
