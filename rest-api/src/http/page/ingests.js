// The list of ingests, newest first. It follows what happens.
import { html, Loading, ProblemNote, State, useLoaded, useState } from "./ui.js";
import { ask } from "./api.js";
import { useLive } from "./live.js";
import { go, href } from "./route.js";
import { bytes, date, number, t } from "./messages.js";

/** The states in which an ingest has ended. */
export const ENDED = ["succeeded", "rejected", "superseded", "gone", "blocked", "failed"];
const STATES = ["queued", "running", ...ENDED];
const SECONDS = 4;

/** The list, with its filters in the address. */
export function Ingests({ params }) {
  const [limit, setLimit] = useState(50);
  const query = new URLSearchParams({ limit });
  for (const name of ["state", "key"]) if (params.get(name)) query.set(name, params.get(name));
  const { value, problem, reload } = useLoaded((signal) => ask(`/ingests?${query}`, { signal }), [query.toString()]);
  useLive(SECONDS, reload, { isAbout: ({ name }) => name === "ingest" });
  const set = (name, text) => {
    const next = new URLSearchParams(params);
    if (text) next.set(name, text);
    else next.delete(name);
    go(href("files", next));
  };
  return html`<section aria-labelledby="ingests-title">
    <h2 id="ingests-title">${t("ingests")}</h2>
    <form class="bar" onSubmit=${(event) => event.preventDefault()}>
      <label
        >${t("ingests.state")}${" "}
        <select value=${params.get("state") ?? ""} onChange=${(event) => set("state", event.target.value)}>
          <option value="">${t("ingests.any")}</option>
          ${STATES.map((state) => html`<option value=${state}>${t(`state.${state}`)}</option>`)}
        </select></label
      >
      <label>${t("ingests.key")}${" "}<input type="search" value=${params.get("key") ?? ""} onChange=${(event) => set("key", event.target.value.trim())} /></label>
    </form>
    ${problem ? html`<${ProblemNote} problem=${problem} retry=${reload} />` : !value ? html`<${Loading} />` : html`<${Table} ingests=${value.value} />`}
    ${value?.next && limit < 1000 && html`<button type="button" onClick=${() => setLimit(Math.min(limit * 4, 1000))}>${t("more")}</button>`}
  </section>`;
}

/** A table of ingests. */
export function Table({ ingests }) {
  if (!ingests.length) return html`<p class="note">${t("ingests.none")}</p>`;
  return html`<div class="wide" tabindex="0" role="group" aria-label=${t("ingests")}>
    <table>
      <thead>
        <tr>
          ${["file", "state", "result", "received"].map((name) => html`<th scope="col">${t(`ingests.${name}`)}</th>`)}
        </tr>
      </thead>
      <tbody>
        ${ingests.map(
          (ingest) => html`<tr key=${ingest.id}>
            <td class="key">
              <a href=${`#/ingests/${ingest.id}`}>${ingest.key}</a>${" "}
              ${ingest.size !== null && html`<span class="quiet">${bytes(ingest.size)}</span>`}
            </td>
            <td><${State} state=${ingest.state} />${ingest.undone_at && html` <span class="quiet">${t("ingest.undone")}</span>`}</td>
            <td>${result(ingest)}</td>
            <td class="when">${date(ingest.received_at)}</td>
          </tr>`,
        )}
      </tbody>
    </table>
  </div>`;
}

/** Says in a few words what an ingest has done. */
export function result(ingest) {
  if (ingest.violation_count) return t("ingests.violations", { n: ingest.violation_count });
  const parts = ["inserted", "updated", "unchanged", "withdrawn", "restored", "held"].filter(
    (name) => ingest[name] > 0,
  );
  if (parts.length) return parts.map((name) => t(`count.${name}`, { n: ingest[name] })).join(", ");
  if (ingest.inserted === 0) return t("count.nothing");
  return ingest.attempts > 1 ? t("ingests.attempts", { n: number(ingest.attempts) }) : "";
}
