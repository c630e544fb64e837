// Elements from values. Text becomes text nodes and nothing else; the page's policy forbids every other way.

/** Make an element; children that are strings become text. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** A text with spans of it marked. Spans are in code points, as the service counts, and don't overlap. */
export function marked(text, spans, mark) {
  const characters = Array.from(text);
  const made = element("p", { class: "marked", dir: "auto" });
  let at = 0;
  for (const span of [...spans].sort((a, b) => a.start - b.start)) {
    if (span.start < at) continue;
    made.append(characters.slice(at, span.start).join(""), mark(characters.slice(span.start, span.end).join(""), span));
    at = span.end;
  }
  made.append(characters.slice(at).join(""));
  return made;
}
