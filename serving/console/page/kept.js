// The list of what was put right under one model, and how it is taken away: as a file that the browser makes itself.

import { spelled } from "./answer.js";
import { element } from "./dom.js";

const FILE = "corrections.jsonl";
const READ_BY_THEN_MS = 60_000; // a browser may go on reading the file after the click

/** Elements for the corrections of one model. `changed()` is called after one was removed, `refuse(name)` if two columns have it. */
export function kept(model, own, { changed, refuse }, say) {
  const removing = (text) => () => {
    own.remove(text);
    changed();
  };
  const rows = [...own.rows].map(([text, answers]) => item(text, answers, removing(text), say));
  const button = element("button", { type: "button" }, say("download", { n: FILE }));
  button.addEventListener("click", () => {
    const doubled = own.doubled();
    if (doubled !== undefined) return refuse(doubled);
    save(own.lines());
    own.isSaved = true;
  });
  const title = element("h3", {}, `${model} · ${say("numKept", { n: own.rows.size })}`);
  return element("article", {}, title, element("ul", { class: "kept" }, ...rows), columns(own, say), button);
}

function item(text, answers, remove, say) {
  const right = [...answers].map(([name, answer]) => `${name}: ${spelled(answer, say)}`).join(" · ");
  const button = element("button", { type: "button", "aria-label": `${say("remove")}: ${right}` }, say("remove"));
  button.addEventListener("click", remove);
  const words = element("p", { class: "words", dir: "auto" }, text);
  return element("li", {}, element("div", {}, words, element("p", { class: "hint" }, right)), button);
}

/** What the training set calls its columns; the reader knows them by its names alone. */
function columns(own, say) {
  const names = ["", ...own.heads.map((head) => head.name)];
  const fields = names.map((name) =>
    field(name ? say("column", { n: name }) : say("textColumn"), own.columns.get(name), name || "text", (value) => own.columns.set(name, value)),
  );
  if (own.heads.some((head) => head.kind === "multi")) {
    fields.push(field(say("separator"), own.separator, say("asList"), (value) => (own.separator = value)));
  }
  const hint = element("p", { class: "hint" }, say("columnsHint"));
  return element("details", {}, element("summary", {}, say("columns")), hint, element("div", { class: "fields" }, ...fields));
}

function field(label, value, instead, set) {
  const input = element("input", { autocomplete: "off", spellcheck: "false", placeholder: instead, value: value ?? "" });
  input.addEventListener("input", () => set(input.value.trim()));
  return element("label", {}, label, input);
}

function save(lines) {
  const href = URL.createObjectURL(new Blob([lines], { type: "application/jsonl" }));
  element("a", { href, download: FILE }).click();
  setTimeout(() => URL.revokeObjectURL(href), READ_BY_THEN_MS);
}
