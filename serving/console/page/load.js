// Live load, read off /metrics every two seconds while the page is in view. Of several front processes it shows one.

import { metrics } from "./api.js";

const EVERY_MS = 2000;
const FULL = new Set(["overloaded", "rate_limited"]);

/** Go on showing the load for as long as the page is open. */
export function watch(key, show) {
  let before = null;
  const look = async () => {
    if (document.hidden) return;
    try {
      const now = { at: performance.now(), ...figures(await metrics(key())) };
      const speed = before ? Math.max(0, (1000 * (now.tokens - before.tokens)) / (now.at - before.at)) : 0;
      before = now;
      show({ ...now, speed });
    } catch {
      before = null;
      show(null);
    }
  };
  setInterval(look, EVERY_MS);
  return look;
}

/** Sum what Prometheus' text form says by name. */
export function figures(text) {
  const found = { tokens: 0, queue: 0, refused: 0, flight: 0, limit: 0 };
  for (const [, name, labels, value] of text.matchAll(/^(\w+)(\{.*\})? ([^\s]+)$/gm)) {
    const number = Number(value);
    if (name === "verbatim_tokens_total") found.tokens += number;
    if (name === "verbatim_queue_tokens") found.queue += number;
    if (name === "verbatim_tokens_in_flight") found.flight = number;
    if (name === "verbatim_tokens_in_flight_limit") found.limit = number;
    if (name === "verbatim_refused_total" && FULL.has(labels.match(/code="(\w+)"/)[1])) found.refused += number;
  }
  return found;
}
