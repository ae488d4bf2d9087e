/** Pages of Prometheus' text format, and the work of the server between two of them. Pure functions. */

/**
 * @typedef {{ labels: Record<string, string>, value: number }} Sample
 * @typedef {{ time: number, values: Map<string, Sample[]> }} Scrape `time` is in seconds
 */

const LINE = /^([A-Za-z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)/;
const LABEL = /([A-Za-z_]\w*)="((?:[^"\\]|\\.)*)"/g;
const ESCAPES = /** @type {Record<string, string>} */ ({ "\\n": "\n", '\\"': '"', "\\\\": "\\" });

/** Stages of a request in their order, with the histogram of each. */
export const STAGES = [
  ["tokenize", "fletcher_tokenization_duration_seconds"],
  ["queue", "fletcher_queue_duration_seconds"],
  ["compute", "fletcher_batch_duration_seconds"],
  ["output", "fletcher_output_duration_seconds"],
];

/** @param {string} page @param {number} time @returns {Scrape} */
export function parse(page, time) {
  /** @type {Map<string, Sample[]>} */
  const values = new Map();
  for (const line of page.split("\n")) {
    const found = line.startsWith("#") ? null : LINE.exec(line);
    if (!found) continue;
    /** @type {Record<string, string>} */
    const labels = {};
    for (const [, name, text] of (found[2] ?? "").matchAll(LABEL)) labels[name] = text.replace(/\\./g, (escape) => ESCAPES[escape] ?? escape);
    const value = { "+Inf": Infinity, "-Inf": -Infinity }[found[3]] ?? Number(found[3]);
    const samples = values.get(found[1]) ?? [];
    samples.push({ labels, value });
    values.set(found[1], samples);
  }
  return { time, values };
}

/** @param {Scrape} scrape @param {string} name */
export const total = ({ values }, name) => (values.get(name) ?? []).reduce((sum, { value }) => sum + value, 0);

/** Return how much a count rose. It begins again when the server does. @param {number} before @param {number} now */
export const rise = (before, now) => (now >= before ? now - before : now);

/**
 * Return the observations of a histogram between two scrapes, over all labels.
 * @param {Scrape} before @param {Scrape} now @param {string} name
 * @returns {{ bounds: number[], counts: number[], count: number, sum: number }} `counts` are of at most each bound
 */
export function observations(before, now, name) {
  const [earlier, later] = [buckets(before, name), buckets(now, name)];
  const bounds = [...later.keys()].sort((a, b) => a - b);
  const restarted = bounds.some((bound) => (earlier.get(bound) ?? 0) > /** @type {number} */ (later.get(bound)));
  const counts = bounds.map((bound) => /** @type {number} */ (later.get(bound)) - (restarted ? 0 : earlier.get(bound) ?? 0));
  const sum = Math.max(total(now, `${name}_sum`) - (restarted ? 0 : total(before, `${name}_sum`)), 0);
  return { bounds, counts, count: counts[counts.length - 1] ?? 0, sum };
}

/** @param {Scrape} scrape @param {string} name */
function buckets(scrape, name) {
  const found = new Map();
  for (const { labels, value } of scrape.values.get(`${name}_bucket`) ?? []) {
    const bound = labels.le === "+Inf" ? Infinity : Number(labels.le);
    found.set(bound, (found.get(bound) ?? 0) + value);
  }
  return found;
}

/**
 * Return a quantile as Prometheus' histogram_quantile does; null without observations.
 * @param {{ bounds: number[], counts: number[], count: number }} histogram @param {number} share from 0 to 1
 */
export function quantile({ bounds, counts, count }, share) {
  if (!count) return null;
  const wanted = share * count;
  const place = counts.findIndex((value) => value >= wanted);
  if (bounds[place] === Infinity) return place > 0 ? bounds[place - 1] : null;
  const low = place > 0 ? bounds[place - 1] : 0, below = place > 0 ? counts[place - 1] : 0;
  return low + ((bounds[place] - low) * (wanted - below)) / (counts[place] - below);
}

/** Return the work between two scrapes. @param {Scrape} before @param {Scrape} now */
export function work(before, now) {
  const seconds = Math.max(now.time - before.time, 1e-9);
  const rate = (/** @type {string} */ name) => rise(total(before, name), total(now, name)) / seconds;
  const texts = observations(before, now, "fletcher_batch_texts"), tokens = observations(before, now, "fletcher_batch_tokens");
  const computed = rate("fletcher_tokens_processed_total"), padding = rate("fletcher_padding_tokens_total"), room = rate("fletcher_batch_budget_tokens_total");
  const hits = rate("fletcher_vector_cache_hits_total"), misses = rate("fletcher_vector_cache_misses_total");
  return {
    seconds,
    stages: STAGES.map(([stage, name]) => {
      const spent = observations(before, now, name);
      return { stage, perSecond: spent.count / seconds, mean: spent.count ? spent.sum / spent.count : null, p50: quantile(spent, 0.5), p99: quantile(spent, 0.99) };
    }),
    requests: rate("fletcher_requests_total"),
    refused: rate("fletcher_admission_refused_total"),
    textsPerSecond: rate("fletcher_vectors_processed_total"),
    tokensPerSecond: computed,
    batches: tokens.count / seconds,
    textsOfBatch: texts.count ? texts.sum / texts.count : null,
    tokensOfBatch: tokens.count ? tokens.sum / tokens.count : null,
    filling: room ? computed / room : null,
    padding: computed ? padding / (padding + computed) : null,
    cacheHits: hits + misses ? hits / (hits + misses) : null,
    queueTokens: total(now, "fletcher_queue_tokens"),
    openRequests: total(now, "fletcher_open_requests"),
    parked: total(now, "fletcher_parked_requests"),
    connections: total(now, "fletcher_http_connections"),
    fronts: total(now, "fletcher_fronts"),
  };
}
