// Where the content of a movie comes from, and how it was before.
import { html, ProblemNote, useLoaded, useState } from "./ui.js";
import { ask } from "./api.js";
import { date, t } from "./messages.js";

/** Says in words where content comes from, as far as the caller may know. */
export function origin({ ingest, key, record, edited_by: editor, changed_at: at }) {
  const when = at ? date(at) : t("origin.unknownTime");
  if (key === undefined) return t("origin.time", { when });
  if (key === null) {
    const isPosted = record !== null && record !== undefined;
    return t(isPosted ? "origin.posted" : "origin.editor", { name: editor, record: record + 1, when });
  }
  const file = ingest ? html`<a href=${`#/ingests/${ingest}`}>${key}</a>` : key;
  return html`${t("origin.from")} ${file}${t("origin.record", { record: record + 1, when })}`;
}

/** The changes of a movie, newest first. They are loaded when somebody wants to see them. */
export function History({ path, state }) {
  const [open, setOpen] = useState(false);
  return html`<details class="history" onToggle=${(event) => setOpen(event.target.open)}>
    <summary>${t("history")}</summary>
    ${open && html`<${Changes} path=${path} state=${state} />`}
  </details>`;
}

function Changes({ path, state }) {
  const [limit, setLimit] = useState(20);
  const { value, problem, reload } = useLoaded(
    (signal) => ask(`${path}/history?limit=${limit}`, { signal }),
    [path, state, limit],
  );
  if (problem) return html`<${ProblemNote} problem=${problem} retry=${reload} />`;
  if (!value) return html`<p class="quiet">${t("loading")}</p>`;
  return html`<ol class="changes">
      ${value.value.map(
        (change) => html`<li>
          <p><strong>${t(`history.${change.kind}`)}</strong> <span class="quiet">${source(change)}</span></p>
          ${change.changes?.map((operation) => html`<p class="change">${describe(operation)}</p>`)}
        </li>`,
      )}
    </ol>
    ${value.next && html`<button type="button" onClick=${() => setLimit(limit + 100)}>${t("more")}</button>`}`;
}

function source(change) {
  const when = change.at ? date(change.at) : t("origin.unknownTime");
  const by = change.by ? t("movie.by", { name: change.by }) : "";
  const reason = change.reason ? ` · ${t(`reason.${change.reason}`)}` : "";
  const file =
    change.key &&
    html` · ${change.ingest ? html`<a href=${`#/ingests/${change.ingest}`}>${change.key}</a>` : change.key}`;
  return html`${when}${by}${reason}${file}`;
}

function describe({ op, path, value }) {
  const name = path.slice(1).replaceAll("~1", "/").replaceAll("~0", "~");
  const text = Array.isArray(value) ? value.join(", ") : typeof value === "string" ? value : JSON.stringify(value);
  return html`<code>${name}</code> ${op === "remove" ? t("history.removed") : html`→ ${text}`}`;
}
