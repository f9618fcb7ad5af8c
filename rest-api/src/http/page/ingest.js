// One ingest: what became of a version of a file, and what can be done about it.
import { html, Loading, ProblemNote, State, Title, useLoaded, useState } from "./ui.js";
import { ask } from "./api.js";
import { Dialog } from "./dialog.js";
import { ENDED, Table, result } from "./ingests.js";
import { useLive } from "./live.js";
import { Violations } from "./violations.js";
import { bytes, date, number, t } from "./messages.js";

const SECONDS = 2;

/** The view at `#/ingests/{id}`. */
export default function Ingest({ id, may }) {
  const path = `/ingests/${encodeURIComponent(id ?? "")}`;
  const { value, problem, reload } = useLoaded((signal) => ask(path, { signal }), [path]);
  const [asked, setAsked] = useState();
  const ingest = value?.value;
  const isEnded = ingest && ENDED.includes(ingest.state);
  useLive(SECONDS, () => isEnded || reload(), { isAbout: ({ data }) => data?.id === ingest?.id });
  if (problem)
    return html`<${Title}>${t("ingest")}<//><${ProblemNote} problem=${problem} retry=${problem.status === 404 ? undefined : reload} />`;
  if (!ingest) return html`<${Loading} />`;

  const actions = [
    ["failed", "gone"].includes(ingest.state) && may("producer", "editor", "service") && "retry",
    ingest.state === "blocked" && may("editor", "service") && "approve",
    ["succeeded", "superseded"].includes(ingest.state) &&
      may("editor", "service") &&
      (ingest.undone_at ? "redo" : "undo"),
  ].filter(Boolean);
  const done = () => {
    setAsked(undefined);
    reload();
  };
  return html`<article class="ingest">
    <${Title}>${ingest.key}<//>
    <p role="status"><${State} state=${ingest.state} /> ${result(ingest)}</p>
    <p class="quiet">${t(ingest.superseded_reason ? `superseded.${ingest.superseded_reason}` : `state.${ingest.state}.what`)}</p>
    ${ingest.error && html`<div class="note bad"><p><strong>${ingest.error.title}</strong></p><p>${ingest.error.detail}</p></div>`}
    ${actions.length > 0 &&
    html`<p class="buttons">
      ${actions.map((action) => html`<button type="button" onClick=${() => setAsked(action)}>${t(`ingest.${action}`)}</button>`)}
    </p>`}
    ${asked && html`<${Decide} key=${asked} path=${path} ingest=${ingest} action=${asked} onDone=${done} onClose=${() => setAsked(undefined)} />`}
    <dl class="facts">
      ${facts(ingest).map(([name, text]) => html`<div><dt>${t(`ingest.${name}`)}</dt><dd>${text}</dd></div>`)}
    </dl>
    ${ingest.violation_count > 0 &&
    html`<h2>${t("violations")}</h2>
      <${Violations} violations=${ingest.violations} count=${ingest.violation_count} name=${ingest.key.split("/").at(-1)} />`}
    ${
      ingest.held_movies?.length > 0 &&
      html`<h2>${t("ingest.heldMovies")}</h2>
      <ul>${ingest.held_movies.map((movie) => html`<li><a href=${`#/movies/${movie.id}`}>${movie.title} (${movie.year})</a></li>`)}</ul>`
    }
    <${Versions} ingest=${ingest} />
  </article>`;
}

function facts(ingest) {
  const who = (name, at) => at && `${date(at)}${name ? t("movie.by", { name }) : ""}`;
  return [
    ["bucket", ingest.bucket],
    ["version", ingest.version_id],
    ["event", t(`event.${ingest.event}`)],
    ["mode", ingest.mode && t(`mode.${ingest.mode}`)],
    ["size", ingest.size === null ? undefined : bytes(ingest.size)],
    ["received", date(ingest.received_at)],
    ["started", ingest.started_at && date(ingest.started_at)],
    ["finished", ingest.finished_at && date(ingest.finished_at)],
    ["attempts", number(ingest.attempts)],
    ["approved", who(ingest.approved_by, ingest.approved_at)],
    ["undoneAt", who(ingest.undone_by, ingest.undone_at)],
  ].filter(([, text]) => text);
}

/** Asks before something is decided. It shows first what would change. */
function Decide({ path, ingest, action, onDone, onClose }) {
  const isDry = action === "undo" || action === "redo";
  const { value, problem } = useLoaded(
    (signal) => (isDry ? ask(`${path}/${action}?dry_run=true`, { method: "POST", signal }) : Promise.resolve()),
    [path, action],
  );
  const effect = value?.value.effect;
  const confirm = async () => {
    await ask(`${path}/${action}`, { method: "POST" });
    onDone();
  };
  return html`<${Dialog} title=${t(`ingest.${action}`)} action=${t(`ingest.${action}`)} danger=${action !== "retry"} disabled=${isDry && !effect} onConfirm=${confirm} onClose=${onClose}>
    <p>${t(`ingest.${action}.what`)}</p>
    ${isDry && !effect && !problem && html`<${Loading} />`}
    ${problem && html`<${ProblemNote} problem=${problem} />`}
    ${effect && html`<${Effect} effect=${effect} />`}
    ${action === "approve" && html`<p><strong>${ingest.error.detail}</strong></p><${Affected} movies=${ingest.error.movies ?? []} />`}
  <//>`;
}

function Effect({ effect }) {
  const counts = ["withdrawn", "restored", "changed"].filter((name) => effect[name] > 0);
  if (!counts.length) return html`<p><strong>${t("count.nothing")}</strong></p>`;
  return html`<p><strong>${counts.map((name) => t(`count.${name}`, { n: effect[name] })).join(", ")}</strong></p>
    <${Affected} movies=${effect.movies} />`;
}

function Affected({ movies }) {
  return html`<ul class="effect" tabindex="0">
    ${movies.map((movie) => html`<li>${movie.title} (${movie.year}) <span class="quiet">${t(`effect.${movie.effect}`)}</span></li>`)}
  </ul>`;
}

/** The other versions of the same file. */
function Versions({ ingest }) {
  const query = new URLSearchParams({ bucket: ingest.bucket, key: ingest.key, limit: 20 });
  const { value } = useLoaded((signal) => ask(`/ingests?${query}`, { signal }), [ingest.id, ingest.state]);
  const others = value?.value.filter(({ id }) => id !== ingest.id) ?? [];
  if (!others.length) return null;
  return html`<h2>${t("ingest.versions")}</h2>
    <${Table} ingests=${others} />`;
}
