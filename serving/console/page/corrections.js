// What people put right, in this page's memory alone, and as the lines that `python -m jobs.finetune corrections=…` reads.
// JSON Lines, since a spreadsheet would run a text that begins with = as a formula if it came as CSV.

const KINDS = new Set(["single", "ordinal", "multi"]);

/** Whether a head's answer is one or several of its labels. */
export const canBePutRight = (head) => KINDS.has(head.kind);

/** Texts that one model scored, each with the right answer of some heads: a label, or a list of them. */
export class Corrections {
  constructor(heads) {
    this.heads = heads.filter((head) => head.kind !== "embedding");
    this.rows = new Map(); // text -> Map of head name -> answer
    this.columns = new Map(); // "" (the text) or head name -> what the training set calls it, where it does otherwise
    this.separator = ""; // of several labels in a cell; none: a list
    this.isSaved = true; // as it is now
  }

  answer(text, name) {
    return this.rows.get(text)?.get(name);
  }

  put(text, name, answer) {
    if (!this.rows.has(text)) this.rows.set(text, new Map());
    this.rows.get(text).set(name, answer);
    this.isSaved = false;
  }

  takeBack(text, name) {
    this.rows.get(text)?.delete(name);
    if (!this.rows.get(text)?.size) this.rows.delete(text);
    this.isSaved = false;
  }

  remove(text) {
    this.rows.delete(text);
    this.isSaved = false;
  }

  /** Names of the file's columns: the text's, then every head's. The reader wants each in the file, corrected or not. */
  names() {
    return [this.columns.get("") || "text", ...this.heads.map((head) => this.columns.get(head.name) || head.name)];
  }

  /** A name that two columns would have. */
  doubled() {
    return this.names().find((name, place, names) => names.indexOf(name) < place);
  }

  /** The file: an object a line. What nobody put right is null, which says nothing about it. */
  lines() {
    const [text, ...columns] = this.names();
    return [...this.rows].map(([words, answers]) => {
      const cells = columns.map((column, place) => [column, this.#cell(answers.get(this.heads[place].name))]);
      return `${JSON.stringify(Object.fromEntries([[text, words], ...cells]))}\n`;
    }).join("");
  }

  #cell(answer) {
    if (Array.isArray(answer) && this.separator) return answer.join(this.separator);
    return answer ?? null;
  }
}
