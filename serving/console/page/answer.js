// The answer as elements: bars for every head, spans of token heads, words by their effect.

import { element, marked } from "./dom.js";

const SHOWN = 6; // bars of a head with many labels; the others unfold

/** One block a head that was asked for. `say` gives the page's words, `beside` what stands next to a head's answer. */
export function scores(heads, row, say, beside) {
  return heads.filter((head) => head.name in row && head.kind !== "token").map((head) => {
    const known = probabilities(head).filter(([, column]) => row[column] !== null).map(([label, column]) => [label, row[column]]);
    const title = element("h3", {}, `${head.name}: `, element("strong", {}, shown(head, row[head.name], say)));
    return element("div", { class: "head" }, title, ...beside(head, row), ...bars(known, say));
  });
}

/** A block for each token head: the text that the model read, with what was found in it. */
export function spans(heads, result, say) {
  return heads.filter((head) => head.kind === "token" && head.name in result.scores).map((head) => {
    const found = result.scores[head.name];
    const text = found.length ? marked(result.clean_text, found, aspect) : element("p", { class: "hint" }, say("noSpans"));
    return element("div", { class: "head" }, element("h3", {}, say("spans", { n: head.name })), text);
  });
}

/** The text with its words tinted by effect, and the same as a table. */
export function attributions(text, told, say) {
  if (!told) return [];
  const strongest = Math.max(...told.attributions.map((one) => Math.abs(one.effect)), Number.MIN_VALUE);
  const tinted = marked(text, told.attributions, (words, span) => {
    const mark = element("mark", { class: span.effect < 0 ? "less" : "more", title: signed(span.effect) }, words);
    mark.style.setProperty("--strength", (Math.abs(span.effect) / strongest).toFixed(3));
    return mark;
  });
  return [
    element("h3", {}, say("attributions", { n: `${told.column} = ${told.score.toFixed(3)}` })),
    element("p", { class: "hint" }, say("attributionsHint")),
    tinted,
    element("details", {}, element("summary", {}, say("allWords")), table(told.attributions, say)),
  ];
}

/** Label and column of each probability of a head. */
export function probabilities(head) {
  const own = `prob_${head.name}_`;
  const names = Object.keys(head.columns).filter((column) => column.startsWith("prob_"));
  return names.map((column) => [column.startsWith(own) ? column.slice(own.length) : column.slice("prob_".length), column]);
}

/** A label, or several of them, as words. */
export function spelled(answer, say) {
  return Array.isArray(answer) ? answer.join(", ") || say("noLabel") : answer;
}

function shown(head, value, say) {
  if (head.kind === "ordinal") return value.toFixed(2);
  if (head.kind === "embedding") return say("vector", { n: value.length });
  return spelled(value, say);
}

/** Of many labels the likeliest first, as there is no order that a reader would miss. */
function bars(known, say) {
  const drawn = (some) => some.map(([label, share]) => bar(label, share));
  if (known.length <= SHOWN + 1) return drawn(known);
  const sorted = known.toSorted((one, other) => other[1] - one[1]);
  const others = element("details", {}, element("summary", {}, say("otherLabels")), ...drawn(sorted.slice(SHOWN)));
  return [...drawn(sorted.slice(0, SHOWN)), others];
}

function bar(label, share) {
  const fill = element("span", { class: "fill" });
  fill.style.setProperty("--share", share.toFixed(4));
  const track = element("span", { class: "track", "aria-hidden": "true" }, fill);
  return element("div", { class: "bar" }, element("span", { class: "label" }, label), track, element("span", { class: "number" }, share.toFixed(3)));
}

function aspect(words, span) {
  const note = element("small", {}, ` ${span.label} ${span.prob.toFixed(2)}`);
  return element("mark", { class: "aspect", "data-label": span.label }, words, note);
}

function table(found, say) {
  const head = element("tr", {}, element("th", { scope: "col" }, say("word")), element("th", { scope: "col" }, say("effect")));
  const rows = found.map((one) => element("tr", {}, element("td", { dir: "auto" }, one.text), element("td", { class: "number" }, signed(one.effect))));
  return element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows));
}

const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(3)}`;
