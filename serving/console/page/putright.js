// The control beside a head's answer that says what is right instead. It draws itself anew, so what is open in others stays.

import { probabilities, spelled } from "./answer.js";
import { element } from "./dom.js";

/** Elements for one head. `kept()` gives what was put right, `keep(answer)` and `takeBack()` change it. */
export function putRight(head, row, { kept, keep, takeBack }, say) {
  const note = element("p", { class: "righted" });
  const back = element("button", { type: "button" }, say("takeBack"));
  const choice = chooser(head, kept() ?? answered(head, row), say);
  const form = element("form", {}, choice.element, element("button", { type: "submit" }, say("keep")), " ", back);
  const summary = element("summary", { "aria-label": `${say("putRight")}: ${head.name}` }, say("putRight"));
  const box = element("details", { class: "right" }, summary, form);
  const draw = () => {
    note.textContent = kept() === undefined ? "" : say("isRight", { n: spelled(kept(), say) });
    note.hidden = back.hidden = kept() === undefined;
  };
  const change = (what) => {
    what();
    draw();
    box.open = false;
    summary.focus();
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    change(() => keep(choice.read()));
  });
  back.addEventListener("click", () => change(takeBack));
  draw();
  return [box, note];
}

/** What the model answered, as labels. */
function answered(head, row) {
  if (head.kind !== "ordinal") return row[head.name];
  return probabilities(head).reduce((best, one) => (row[one[1]] > row[best[1]] ? one : best))[0];
}

function chooser(head, answer, say) {
  return head.kind === "multi" ? several(head, new Set(answer), say) : one(head, answer, say);
}

function one(head, answer, say) {
  const select = element("select", {}, ...head.labels.map((label) => element("option", { value: label }, label)));
  select.value = answer;
  return { element: element("label", {}, say("rightOne", { n: head.name }), select), read: () => select.value };
}

function several(head, answers, say) {
  const boxes = head.labels.map((label) => element("input", { type: "checkbox", value: label }));
  for (const box of boxes) box.checked = answers.has(box.value);
  const labels = boxes.map((box) => element("label", { class: "check" }, box, ` ${box.value}`));
  const legend = element("legend", {}, say("rightSeveral", { n: head.name }));
  return { element: element("fieldset", {}, legend, ...labels), read: () => boxes.filter((box) => box.checked).map((box) => box.value) };
}
