// A model card's Markdown as elements: headings, paragraphs, lists, tables, code, bold. Everything else, links, images and
// HTML among it, stays the text that it is, so a card can bring nothing into the page.

import { element } from "./dom.js";

const BULLET = /^\s*(?:[-*]|\d+\.)\s+/;

/** Give a list of elements. */
export function markdown(source) {
  const lines = source.split(/\r?\n/);
  const made = [];
  while (lines.length) {
    const line = lines[0];
    if (!line.trim()) lines.shift();
    else if (line.startsWith("```")) made.push(fenced(lines));
    else if (/^#{1,6} /.test(line)) made.push(heading(lines.shift()));
    else if (line.startsWith("|")) made.push(table(take(lines, (one) => one.startsWith("|"))));
    else if (BULLET.test(line)) made.push(list(take(lines, (one) => BULLET.test(one))));
    else if (/^(?: {4}|\t)/.test(line)) made.push(code(take(lines, (one) => /^(?: {4}|\t)/.test(one))));
    else made.push(element("p", {}, ...inline(take(lines, isPlain).join(" "))));
  }
  return made;
}

function take(lines, belongs) {
  const taken = [lines.shift()];
  while (lines.length && belongs(lines[0])) taken.push(lines.shift());
  return taken;
}

const isPlain = (line) => line.trim() && !/^(?:#{1,6} |\||```)/.test(line) && !BULLET.test(line);

function fenced(lines) {
  lines.shift();
  const end = lines.findIndex((line) => line.startsWith("```"));
  const inside = lines.splice(0, end < 0 ? lines.length : end);
  lines.shift();
  return element("pre", { tabindex: "0" }, inside.join("\n"));
}

const code = (lines) => element("pre", { tabindex: "0" }, lines.map((line) => line.replace(/^(?: {4}|\t)/, "")).join("\n"));

function heading(line) {
  const [signs] = line.match(/^#+/);
  return element(`h${Math.min(6, signs.length + 3)}`, {}, ...inline(line.slice(signs.length + 1)));
}

function list(lines) {
  const tag = /^\s*\d/.test(lines[0]) ? "ol" : "ul";
  return element(tag, {}, ...lines.map((line) => element("li", {}, ...inline(line.replace(BULLET, "")))));
}

function table(lines) {
  const [head, ...rows] = lines.filter((line) => !/^[|\s:-]+$/.test(line) || !line.includes("-")).map(cells);
  const row = (tag, values) => element("tr", {}, ...values.map((value) => element(tag, {}, ...inline(value))));
  const made = element("table", {}, element("thead", {}, row("th", head)), element("tbody", {}, ...rows.map((r) => row("td", r))));
  return element("div", { class: "scroll", tabindex: "0" }, made);
}

const cells = (line) => line.replace(/^\||\|\s*$/g, "").split("|").map((cell) => cell.trim());

function inline(text) {
  return text.split(/(`[^`]+`|\*\*[^*]+\*\*)/).filter(Boolean).map((part) => {
    if (part.startsWith("`") && part.length > 2) return element("code", {}, part.slice(1, -1));
    if (part.startsWith("**") && part.length > 4) return element("strong", {}, part.slice(2, -2));
    return part;
  });
}
