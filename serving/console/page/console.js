// The page itself: what is chosen in it, what was answered last, and what has to be drawn anew when either changes.
// Nothing is stored: neither text nor key nor language outlives the page.

import * as api from "./api.js";
import * as answer from "./answer.js";
import { Corrections, canBePutRight } from "./corrections.js";
import { element } from "./dom.js";
import { kept } from "./kept.js";
import { watch } from "./load.js";
import { markdown } from "./markdown.js";
import { putRight } from "./putright.js";
import { curl, python } from "./snippets.js";
import { phrase, preferred } from "./words.js";

const at = (id) => document.getElementById(id);
const state = { language: preferred(), models: [], last: null, fault: null, corrections: new Map() };
const say = (name, values) => phrase(state.language, name, values);
const key = () => at("key").value.trim();

// --- what is asked ---

const chosen = () => state.models[at("model").selectedIndex];
const nameOf = (model) => `${model.id} ${model.version}`;
const boxes = () => [...at("heads").querySelectorAll("input")];

function request() {
  const model = chosen();
  const wanted = boxes().filter((box) => box.checked).map((box) => box.value);
  const body = { texts: [at("text").value] };
  if (model) Object.assign(body, { model: model.id, version: model.version });
  if (wanted.length < boxes().length) body.heads = wanted;
  return body;
}

function question() {
  if (!at("explain").value) return null;
  const [head, label] = JSON.parse(at("explain").value);
  const { model, version } = request();
  return { text: at("text").value, model, version, head, k: 128, ...(label === null ? {} : { label }) };
}

async function submit() {
  const [text, model] = [at("text").value, chosen()];
  state.fault = null;
  showStatus("scoring");
  at("submit").disabled = true;
  try {
    const asked = question();
    const told = await api.score(request(), key());
    const explained = asked && !told.results[0].error ? await api.explain(asked, key()) : null;
    state.last = { text, model: model && nameOf(model), heads: model?.heads ?? [], told, explained };
    showStatus("done");
  } catch (fault) {
    if (!(fault instanceof api.Refused)) throw fault;
    [state.last, state.fault] = [null, fault];
    showStatus(null);
  } finally {
    at("submit").disabled = false;
    drawAnswer();
  }
}

async function loadModels() {
  try {
    state.models = await api.models(key());
    state.fault = null;
  } catch (fault) {
    if (!(fault instanceof api.Refused)) throw fault;
    [state.models, state.fault] = [[], fault];
  }
  drawModels();
  drawAnswer();
}

// --- what is put right ---

function beside(head, row) {
  if (!canBePutRight(head)) return [];
  const { text, model, heads } = state.last;
  const own = () => state.corrections.get(model);
  const keep = (right) => {
    if (!own()) state.corrections.set(model, new Corrections(heads));
    own().put(text, head.name, right);
    drawCorrections("kept");
  };
  const takeBack = () => {
    own().takeBack(text, head.name);
    drawCorrections("takenBack");
  };
  return putRight(head, row, { kept: () => own()?.answer(text, head.name), keep, takeBack }, say);
}

function removed() {
  drawAnswer();
  drawCorrections("takenBack");
  (at("corrections").hidden ? at("text") : at("corrections-title")).focus();
}

const refuse = (name) => showStatus("doubled", { n: name });
const withRows = () => [...state.corrections].filter(([, own]) => own.rows.size);

// --- what is drawn ---

function drawAll() {
  document.documentElement.lang = state.language === "zh" ? "zh-CN" : "en";
  for (const one of document.querySelectorAll("[data-word]")) one.textContent = say(one.dataset.word);
  for (const one of document.querySelectorAll("[data-language]")) one.setAttribute("aria-pressed", one.dataset.language === state.language);
  drawModels();
  drawAnswer();
  drawCorrections(null);
}

function drawModels() {
  const before = at("model").selectedIndex;
  at("model").replaceChildren(...state.models.map((one) => element("option", {}, nameOf(one))));
  at("model").selectedIndex = Math.min(Math.max(before, 0), state.models.length - 1);
  at("cards").replaceChildren(...state.models.map(card));
  drawHeads();
}

function drawHeads() {
  const heads = chosen()?.heads ?? [];
  const unchecked = new Set(boxes().filter((box) => !box.checked).map((box) => box.value));
  at("heads").replaceChildren(...heads.map((head) => {
    const box = element("input", { type: "checkbox", value: head.name });
    box.checked = !unchecked.has(head.name);
    return element("label", { class: "check" }, box, ` ${head.name}`);
  }));
  if (!heads.length) at("heads").append(element("span", { class: "hint" }, say("noHeads")));
  drawTargets(heads);
  drawSnippets();
}

function drawTargets(heads) {
  const before = at("explain").value;
  const groups = heads.filter((head) => answer.probabilities(head).length).map((head) => {
    const main = element("option", { value: JSON.stringify([head.name, null]) }, say("explainMain", { n: head.name }));
    const labels = head.labels.map((label) => element("option", { value: JSON.stringify([head.name, label]) }, `${head.name}: ${label}`));
    return [main, ...labels];
  });
  at("explain").replaceChildren(...groups.flat(), element("option", { value: "" }, say("explainNone")));
  if (before) at("explain").value = before;
  if (at("explain").selectedIndex < 0) at("explain").selectedIndex = 0;
}

function drawSnippets() {
  at("curl").textContent = curl(location.origin, request(), Boolean(key()));
  at("python").textContent = python(location.origin, request(), Boolean(key()));
}

function drawAnswer() {
  drawFault();
  at("nothing").hidden = Boolean(state.last);
  const result = state.last?.told.results[0];
  const scored = result && !result.error;
  at("facts").textContent = scored ? factsOf(state.last.told, result) : (result?.error.message ?? "");
  at("scores").replaceChildren(...(scored ? answer.scores(state.last.heads, result.scores, say, beside) : []));
  at("spans").replaceChildren(...(scored ? answer.spans(state.last.heads, result, say) : []));
  at("attributions").replaceChildren(...(scored ? answer.attributions(state.last.text, state.last.explained, say) : []));
}

function drawCorrections(word) {
  const found = withRows();
  at("corrections").hidden = !found.length;
  at("kept").replaceChildren(...found.map(([model, own]) => kept(model, own, { changed: removed, refuse }, say)));
  showStatus(word);
}

function factsOf(told, result) {
  const facts = say("facts", { model: told.model, lang: result.lang, num_tokens: result.num_tokens });
  return result.truncated ? `${facts} · ${say("cut")}` : facts;
}

function drawFault() {
  const fault = state.fault;
  if (!fault) return at("fault").replaceChildren();
  const lines = [
    fault.status ? `${fault.status} ${fault.code}: ${fault.message}${fault.field ? ` (${fault.field})` : ""}` : say("unreachable"),
    fault.retryAfter && say("retryAfter", { n: fault.retryAfter }),
    fault.requestId && say("requestId", { n: fault.requestId }),
  ];
  return at("fault").replaceChildren(...lines.filter(Boolean).map((line) => element("p", {}, line)));
}

function card(model) {
  const percent = new Intl.NumberFormat(state.language, { style: "percent" });
  const facts = model.model
    ? [["share", percent.format(model.share)], ["languages", model.languages.join(", ")], ["maxLength", model.max_length], ["precision", `${model.precision}, ${model.device}`]]
    : [["share", percent.format(model.share)]];
  const rows = facts.map(([name, value]) => element("div", {}, element("dt", {}, say(name)), element("dd", {}, String(value))));
  const about = model.model
    ? element("details", {}, element("summary", {}, say("card")), element("div", { class: "card" }, ...markdown(model.card)))
    : element("p", { class: "hint" }, say("asleep"));
  return element("article", {}, element("h3", {}, model.model ?? nameOf(model)), element("dl", {}, ...rows), about);
}

function drawLoad(now) {
  const number = new Intl.NumberFormat(state.language, { maximumFractionDigits: 0 });
  const values = now && {
    queue: number.format(now.queue),
    speed: number.format(now.speed),
    flight: `${number.format(now.flight)} / ${number.format(now.limit)}`,
    refused: number.format(now.refused),
  };
  for (const id of ["queue", "speed", "flight", "refused"]) at(id).textContent = values ? values[id] : "–";
}

function showStatus(word, values) {
  at("status").textContent = word ? say(word, values) : "";
}

async function copy(id) {
  try {
    await navigator.clipboard.writeText(at(id).textContent);
    showStatus("copied");
  } catch {
    getSelection().selectAllChildren(at(id));
    showStatus("selected");
  }
}

// --- what happens ---

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
at("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("form").requestSubmit();
});
at("form").addEventListener("input", drawSnippets);
at("model").addEventListener("change", drawHeads);
at("key").addEventListener("change", () => loadModels().then(look));
for (const one of document.querySelectorAll("[data-language]")) {
  one.addEventListener("click", () => {
    state.language = one.dataset.language;
    drawAll();
  });
}
for (const one of document.querySelectorAll("[data-copy]")) one.addEventListener("click", () => copy(one.dataset.copy));
addEventListener("beforeunload", (event) => {
  if (withRows().some(([, own]) => !own.isSaved)) event.preventDefault();
});

const look = watch(key, drawLoad);
drawAll();
loadModels();
look();
