/** Search among embedded rows: vectors, then a reranker, then the nearest sentence of each result. */

import { ask, embed } from "../api.js";
import { cosine } from "../compare/similarity.js";
import { call } from "../work/desk.js";
import { sentencesOf } from "./highlight.js";

/** Candidates for the reranker, and the most that its request can have. */
const CANDIDATES = 100;

/** Results whose sentences are embedded, and the most sentences. */
const SENTENCE_RESULTS = 10;
const MOST_SENTENCES = 128;

/**
 * @typedef {{ row: number, score: number, before: number | null, relevance: number | null, best: number }} Result
 * `before` is the place without the reranker, `best` the index of the nearest sentence, or -1
 */

/**
 * Return the best rows for a query.
 * @param {string} query
 * @param {{ model: string, type: string, reranker: string, count: number, texts: string[] }} options
 * @param {AbortSignal} signal
 * @returns {Promise<{ results: Result[], requests: any[], vector: Float32Array }>}
 */
export async function find(query, { model, type, reranker, count, texts }, signal) {
  const found = await embed([query], { model, input_type: type }, signal);
  const vector = found.vectors[0];
  const length = Math.sqrt(vector.reduce((/** @type {number} */ sum, /** @type {number} */ value) => sum + value * value, 0)) || 1;
  const unit = vector.map((/** @type {number} */ value) => value / length);
  const candidates = await call("top", { vector: unit, most: reranker ? Math.max(CANDIDATES, count) : count });
  const requests = [found.request];
  let results = candidates.map((/** @type {any} */ one) => ({ ...one, before: null, relevance: null, best: -1 }));
  if (reranker && results.length) {
    const body = { model: reranker, query, documents: results.map((/** @type {Result} */ { row }) => texts[row]), return_documents: false, top_n: count };
    const ranked = await ask("v1/rerank", { body, signal });
    requests.push({ path: "v1/rerank", body: { ...body, documents: body.documents.slice(0, 10) } });
    results = ranked.results.map((/** @type {any} */ { index, relevance_score }) => ({ ...results[index], before: index + 1, relevance: relevance_score }));
  }
  await markSentences(results, vector, { model, texts }, signal);
  return { results, requests, vector };
}

/**
 * Find the sentence of each of the first results that is nearest to the query.
 * @param {Result[]} results @param {Float32Array} vector @param {{ model: string, texts: string[] }} options @param {AbortSignal} signal
 */
async function markSentences(results, vector, { model, texts }, signal) {
  /** @type {{ result: Result, index: number, sentence: string }[]} */
  const parts = [];
  for (const result of results.slice(0, SENTENCE_RESULTS)) {
    const sentences = sentencesOf(texts[result.row]);
    if (sentences.length < 2 || parts.length + sentences.length > MOST_SENTENCES) continue;
    sentences.forEach((sentence, index) => sentence.trim() && parts.push({ result, index, sentence }));
  }
  if (!parts.length) return;
  const { vectors } = await embed(parts.map(({ sentence }) => sentence), { model }, signal);
  const best = new Map();
  parts.forEach(({ result, index }, place) => {
    const score = cosine(vectors[place], vector);
    if (!best.has(result) || score > best.get(result)) {
      best.set(result, score);
      result.best = index;
    }
  });
}
