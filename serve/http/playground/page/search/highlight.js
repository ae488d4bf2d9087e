/** Words of a query in a text, and the sentence that is nearest to it. */

import { node } from "../dom.js";

const words = new Intl.Segmenter(undefined, { granularity: "word" });
const sentences = new Intl.Segmenter(undefined, { granularity: "sentence" });

/** Rows that show how frequent a word is, and the share of them from which it marks nothing. */
const SAMPLE = 500, FREQUENT = 0.2;

/** @param {string} text */
const plain = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();

/** Return the words of a query that are looked for: those that few rows have. @param {string} query @param {string[]} texts of the rows */
export function wordsOf(query, texts) {
  const all = [...words.segment(query)].filter((part) => part.isWordLike).map((part) => plain(part.segment));
  const sample = texts.filter((_, row) => row % Math.ceil(texts.length / SAMPLE) === 0).map((text) => new Set(plain(text).match(/[\p{L}\p{N}]+/gu)));
  const rare = all.filter((word) => sample.filter((row) => row.has(word)).length < FREQUENT * sample.length);
  return new Set(rare);
}

/** Report whether a word of a text is one of the query, in this or another ending. @param {string} word @param {Set<string>} wanted */
function matches(word, wanted) {
  const own = plain(word);
  if (wanted.has(own)) return true;
  return own.length > 3 && [...wanted].some((other) => other.length > 3 && (own.startsWith(other) || (other.startsWith(own) && other.length - own.length <= 3)));
}

/** Mark the words of a query in a text. @param {string} text @param {Set<string>} wanted */
export const marked = (text, wanted) =>
  [...words.segment(text)].map((part) => (part.isWordLike && matches(part.segment, wanted) ? node("mark", {}, part.segment) : part.segment));

/** Divide a text into sentences. @param {string} text */
export const sentencesOf = (text) => [...sentences.segment(text)].map((part) => part.segment);

/** Return the content of a result. @param {string} text @param {Set<string>} wanted @param {number} best index of the nearest sentence, or -1 */
export function content(text, wanted, best) {
  if (best < 0) return marked(text, wanted);
  return sentencesOf(text).map((sentence, index) => (index === best ? node("span", { class: "best" }, marked(sentence, wanted)) : node("span", {}, marked(sentence, wanted))));
}
