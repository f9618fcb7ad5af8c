// The violations of a file, with the line of each where the text of the file is at hand.
import { download, html, useState } from "./ui.js";
import { number, t } from "./messages.js";

const COLUMNS = ["record", "offset", "pointer", "expected", "found"];

/** How many rows are drawn at once. */
const SHOWN = 100;

/** Shows violations. `sources` has the line of each, as `locate` returns it. */
export function Violations({ violations, count, name, sources }) {
  const [shown, setShown] = useState(SHOWN);
  const [copied, setCopied] = useState("");
  const copy = async (kind) => {
    const text = kind === "CSV" ? csv(violations) : JSON.stringify(violations, null, 2);
    try {
      await navigator.clipboard.writeText(text);
      setCopied(t("violations.copied", { kind }));
    } catch {
      // Without the clipboard, which needs the user's leave, a file does.
      download(`${name}.violations.${kind.toLowerCase()}`, "text/plain", text);
    }
  };
  return html`<div class="violations">
    <div class="bar">
      <p>
        ${t("ingests.violations", { n: count })}
        ${count > violations.length && ` ${t("violations.listed", { n: number(violations.length) })}`}
      </p>
      <p class="buttons">
        <button type="button" onClick=${() => copy("CSV")}>${t("violations.copy", { kind: "CSV" })}</button>
        <button type="button" onClick=${() => copy("JSON")}>${t("violations.copy", { kind: "JSON" })}</button>
        <span role="status" class="quiet">${copied}</span>
      </p>
    </div>
    <ol>
      ${violations.slice(0, shown).map((violation, index) => html`<li><${Violation} violation=${violation} source=${sources?.[index]} /></li>`)}
    </ol>
    ${violations.length > shown && html`<button type="button" onClick=${() => setShown(shown + SHOWN)}>${t("more")}</button>`}
  </div>`;
}

function Violation({ violation, source }) {
  const { record, pointer, expected, found } = violation;
  const place = [
    source && t("violations.line", { n: number(source.line) }),
    record !== undefined && t("violations.record", { n: number(record + 1) }),
  ].filter(Boolean);
  return html`<p>
      <span class="quiet">${place.join(", ")}</span> ${pointer && html`<code>${pointer}</code>`}<br />
      ${t("violations.expected")} <strong>${expected}</strong>, ${t("violations.found")} <strong>${found}</strong>
    </p>
    ${source && html`<pre tabindex="0" aria-label=${t("violations.line", { n: number(source.line) })}><span class="line">${number(source.line)}</span> ${source.before}<mark>${source.at}</mark>${source.after}</pre>`}`;
}

/** Returns a table as CSV (RFC 4180). A cell that a spreadsheet would take for a formula begins with an apostrophe. */
function csv(violations) {
  const cell = (value) => {
    const text = String(value ?? "");
    return `"${(/^[=+\-@\t\r]/.test(text) ? `'${text}` : text).replaceAll('"', '""')}"`;
  };
  const rows = violations.map((violation) => COLUMNS.map((name) => cell(violation[name])).join(","));
  return [COLUMNS.join(","), ...rows, ""].join("\r\n");
}

/** How many characters of a line show on each side of what is wrong. */
const AROUND = 60;

/** Returns the place of each violation in a text: its line, and what stands there. */
export function locate(text, violations) {
  const offsets = new Offsets(text);
  return violations.map(({ offset, pointer }) => {
    if (offset === undefined) return undefined;
    const start = offsets.toIndex(offset);
    const [from, to] = valueAt(text, start, pointer.split("/").slice(1)) ?? [start, start + 1];
    const lineStart = text.lastIndexOf("\n", from - 1) + 1;
    const lineEnd = (text.indexOf("\n", from) + 1 || text.length + 1) - 1;
    const end = Math.min(to, lineEnd, from + AROUND);
    const begin = Math.max(lineStart, from - AROUND);
    return {
      line: offsets.lineOf(from),
      before: (begin > lineStart ? "…" : "") + text.slice(begin, from),
      at: text.slice(from, end),
      after: text.slice(end, Math.min(lineEnd, end + AROUND)),
    };
  });
}

/** Turns byte offsets of UTF-8 into indexes of a text, and these into lines; upwards, as violations are listed. */
class Offsets {
  constructor(text) {
    this.text = text;
    Object.assign(this, { byte: 0, index: 0, line: 1, counted: 0 });
  }

  toIndex(offset) {
    if (offset < this.byte) Object.assign(this, { byte: 0, index: 0 });
    while (this.byte < offset && this.index < this.text.length) {
      const code = this.text.codePointAt(this.index);
      this.byte += code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
      this.index += code < 0x10000 ? 1 : 2;
    }
    return this.index;
  }

  lineOf(index) {
    if (index < this.counted) Object.assign(this, { counted: 0, line: 1 });
    for (; this.counted < index; this.counted++) if (this.text[this.counted] === "\n") this.line++;
    return this.line;
  }
}

/** Returns where the value of a JSON Pointer stands in a text, or the deepest value on the way to it. */
function valueAt(text, start, segments) {
  const scan = new Scan(text, start);
  const range = scan.value(segments.map((segment) => segment.replaceAll("~1", "/").replaceAll("~0", "~")));
  return range;
}

/** Reads JSON no further than it must, and takes what is no JSON as it comes. */
class Scan {
  constructor(text, at) {
    Object.assign(this, { text, at });
  }

  space() {
    while (/\s/.test(this.text[this.at] ?? "x")) this.at++;
  }

  string() {
    const from = this.at++;
    while (this.at < this.text.length && this.text[this.at] !== '"') this.at += this.text[this.at] === "\\" ? 2 : 1;
    this.at++;
    return this.text.slice(from, this.at);
  }

  /** Passes the value here. Returns the place of the one that `segments` lead to. */
  value(segments) {
    this.space();
    const from = this.at;
    const opening = this.text[from];
    let found;
    if (opening === '"') this.string();
    else if (opening === "{" || opening === "[") {
      found = this.members(opening === "{", segments);
      if (found) return found;
    } else while (this.at < this.text.length && !/[\s,\]}]/.test(this.text[this.at])) this.at++;
    return segments && [from, Math.max(this.at, from + 1)];
  }

  members(isObject, segments) {
    this.at++;
    for (let index = 0; this.at < this.text.length; index++) {
      this.space();
      if (/[\]}]/.test(this.text[this.at])) {
        this.at++;
        return undefined;
      }
      const before = this.at;
      let name = String(index);
      if (isObject && this.text[this.at] === '"') {
        const key = this.string();
        try {
          name = JSON.parse(key);
        } catch {
          name = key;
        }
        this.space();
        if (this.text[this.at] === ":") this.at++;
      }
      const isNext = segments?.length > 0 && segments[0] === name;
      // Of a property that should not be there the name is shown.
      const place = this.value(isNext ? segments.slice(1) : undefined);
      if (isNext) return isObject && segments.length === 1 ? [before, this.at] : place;
      this.space();
      if (this.text[this.at] === ",") this.at++;
      else if (this.at === before) this.at++;
    }
    return undefined;
  }
}
