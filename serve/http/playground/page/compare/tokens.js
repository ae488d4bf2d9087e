/** The tokens that the model saw of a text, and the part that it did not see. */

import { counted, node } from "../dom.js";

/** Tokens at each end of a long run that are shown. */
const SHOWN = 60;

/**
 * @typedef {{ id: number, text: string, special: boolean, start: number | null, stop: number | null }} Token
 * @typedef {{ seen: number, dropped: number, prompt: string, side: string }} Cut
 */

/**
 * Divide tokens at the place where the model cut the text.
 * @param {Token[]} tokens of the text with its prompt, not cut @param {Cut} cut
 * @returns {{ kept: Token[], lost: Token[] }}
 */
export function divide(tokens, { dropped, side }) {
  const own = tokens.filter((token) => !token.special);
  const kept = Math.max(own.length - dropped, 0);
  return side === "left" ? { kept: own.slice(own.length - kept), lost: own.slice(0, own.length - kept) } : { kept: own.slice(0, kept), lost: own.slice(kept) };
}

/**
 * Make the view of a text.
 * @param {string} text @param {Token[]} tokens @param {Cut} cut
 */
export function tokenView(text, tokens, cut) {
  // Places count characters of Unicode, not of JavaScript.
  const characters = Array.from(cut.prompt + text);
  const promptEnd = Array.from(cut.prompt).length;
  const { kept, lost } = divide(tokens, cut);
  const limit = node("span", { class: "limit" }, lost.length ? `cut here, ${counted(lost.length, "token")} not seen` : "");
  const first = tokens.filter((token) => token.special).slice(0, 1), last = tokens.filter((token) => token.special).slice(1);
  const seen = run(kept, characters, promptEnd, "token");
  const unseen = lost.length ? node("del", {}, run(lost, characters, promptEnd, "lost")) : null;
  const parts = cut.side === "left" ? [unseen, limit, seen] : [seen, limit, unseen];
  if (!lost.length) parts.splice(parts.indexOf(limit), 1);
  return node("li", {},
    node("p", { class: "tokens" }, special(first), parts, special(last)),
    node("p", { class: "hint" }, `${counted(cut.seen, "token")} seen${cut.dropped ? `, ${counted(cut.dropped, "token")} cut` : ""}`));
}

/** @param {Token[]} tokens */
const special = (tokens) => tokens.map((token) => node("span", { class: "special" }, token.text));

/** @param {Token[]} tokens @param {string[]} characters @param {number} promptEnd @param {string} kind */
function run(tokens, characters, promptEnd, kind) {
  const shown = tokens.length > 2 * SHOWN ? [...tokens.slice(0, SHOWN), null, ...tokens.slice(-SHOWN)] : tokens;
  let place = shown[0]?.start ?? 0;
  return shown.flatMap((token, index) => {
    if (token === null) {
      place = shown[index + 1]?.start ?? place;
      return [node("span", { class: "soft" }, ` … ${counted(tokens.length - 2 * SHOWN, "token")} … `)];
    }
    const start = Math.max(token.start ?? place, place), stop = Math.max(token.stop ?? start, start);
    const gap = characters.slice(place, start).join("");
    place = stop;
    // Several tokens can share a character: all but the first are shown as a dot.
    const letters = characters.slice(start, stop).join("") || "·";
    return [gap, node("span", { class: `${kind}${start < promptEnd ? " prompt" : ""}`, title: `token ${token.id}` }, letters)];
  });
}
