// Files are dropped or chosen, checked at once as the service would check them, and put into the bucket.
import { html, ProblemNote, State, useRef, useState } from "./ui.js";
import { onSession } from "./api.js";
import { result } from "./ingests.js";
import { add, cancel, noticeState, post, put, remove, useTransfers } from "./transfers.js";
import { Violations } from "./violations.js";
import { bytes, number, t } from "./messages.js";

/** What was entered last: it stays when the view is left. */
let entered;
onSession(() => (entered = undefined));

/** Where files are dropped, and what became of them. `prefix` begins the keys of those that are put. */
export function Check({ mayAdd, prefix: suggested }) {
  const files = useTransfers();
  const [over, setOver] = useState(false);
  const [unread, setUnread] = useState(false);
  const [prefix, setPrefix] = useState(entered);
  const [notices, setNotices] = useState(noticeState());
  const chooser = useRef();
  const keyOf = ({ name }) => `${prefix ?? suggested ?? ""}${name}`;
  const ready = files.filter(({ state }) => state === "valid" || state === "unchecked");
  const onDrop = async (event) => {
    event.preventDefault();
    setOver(false);
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
    const found = await Promise.allSettled(entries.map(filesOf));
    add(found.flatMap(({ value }) => value ?? []));
    setUnread(found.some(({ reason }) => reason));
  };
  return html`<section aria-labelledby="check-title">
    <h2 id="check-title">${t(mayAdd ? "check.andPut" : "check")}</h2>
    <div
      class=${over ? "drop over" : "drop"}
      onDragOver=${(event) => {
        event.preventDefault();
        setOver(true);
      }}
      onDragLeave=${() => setOver(false)}
      onDrop=${onDrop}
    >
      <p>${t("check.drop")}</p>
      <p>
        <button type="button" onClick=${() => chooser.current.click()}>${t("check.choose")}</button>
        <input
          ref=${chooser}
          class="hidden"
          type="file"
          multiple
          tabindex="-1"
          aria-label=${t("check.choose")}
          onChange=${(event) => {
            add([...event.target.files].map((blob) => ({ name: blob.name, blob })));
            event.target.value = "";
          }}
        />
      </p>
      <p class="quiet">${t(mayAdd ? "check.what.put" : "check.what")}</p>
    </div>
    ${unread && html`<p class="note bad" role="alert">${t("check.unread")}</p>`}
    ${
      mayAdd &&
      files.length > 0 &&
      html`<div class="bar top">
        <label>${t("put.prefix")}${" "}<input value=${prefix ?? suggested ?? ""} placeholder="incoming/" onInput=${(event) => setPrefix((entered = event.target.value))} /></label>
        ${ready.length > 1 && html`<button type="button" class="main" onClick=${() => ready.forEach((file) => put(file.id, keyOf(file)))}>${t("put.all", { n: ready.length })}</button>`}
        ${notices === "default" && html`<button type="button" onClick=${async () => setNotices(await Notification.requestPermission())}>${t("notice.ask")}</button>`}
      </div>`
    }
    <ul class="checked" role="list">
      ${files.map((file) => html`<li key=${file.id}><${Checked} file=${file} keyOf=${mayAdd && keyOf} /></li>`)}
    </ul>
  </section>`;
}

/** One file. `keyOf` says under which key it can be put, if it can. */
function Checked({ file, keyOf }) {
  const { id, name, blob, state, movies, problem, violations, count, sources, merged, ingest, sent } = file;
  const isReady = state === "valid" || state === "unchecked";
  const isMoving = state === "queued" || state === "putting";
  return html`<div class="bar">
      <h3>${name} <span class="quiet">${bytes(blob.size)}</span></h3>
      ${!isMoving && html`<button type="button" class="plain" aria-label=${t("check.remove", { name })} onClick=${() => remove(id)}>${t("check.removeShort")}</button>`}
    </div>
    <div role="status">
      ${state === "waiting" && html`<p class="quiet">${t("check.waiting")}</p>`}
      ${state === "valid" && html`<p><span class="state succeeded">${t("check.valid")}</span> ${t("movies", { n: movies })}</p>`}
      ${state === "unchecked" && html`<p class="quiet">${t("check.unchecked")}</p>`}
      ${state === "adding" && html`<p class="quiet">${t("check.adding")}</p>`}
      ${state === "added" && html`<p><span class="state succeeded">${t("check.added")}</span> ${["inserted", "updated", "unchanged"].map((each) => t(`count.${each}`, { n: merged[each] })).join(", ")}</p>`}
      ${state === "queued" && html`<p class="quiet">${t("put.queued")}</p>`}
      ${state === "put" && !ingest && html`<p class="quiet">${t("put.done")}</p>`}
      ${ingest && html`<p><${State} state=${ingest.state} /> <a href=${`#/ingests/${ingest.id}`}>${ingest.key}</a> ${result(ingest)}</p>`}
    </div>
    ${state === "putting" && html`<p><progress max=${blob.size} value=${sent} aria-label=${t("put.progress", { name })}></progress> <span class="quiet">${t("percent", { n: number(Math.floor((sent / blob.size) * 100)) })}</span></p>`}
    ${violations && html`<${Violations} violations=${violations} count=${count} name=${name} sources=${sources} />`}
    ${problem && html`<${ProblemNote} problem=${problem} />`}
    ${
      keyOf &&
      isReady &&
      html`<p class="buttons">
        <button type="button" class="main" onClick=${() => put(id, keyOf(file))}>${t(problem ? "again" : "put")}</button>
        ${state === "valid" && html`<button type="button" onClick=${() => post(id)}>${t("check.add")}</button>`}
      </p>`
    }
    ${isMoving && html`<p><button type="button" onClick=${() => cancel(id)}>${t("cancel")}</button></p>`}`;
}

/** Returns the files of what was dropped: a file, or a folder with all that is below it. */
async function filesOf(entry) {
  const name = entry.fullPath.slice(1);
  if (entry.isFile) {
    const blob = await new Promise((resolve, reject) => entry.file(resolve, reject));
    return [{ name, blob }];
  }
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    // A folder is read in parts.
    const part = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!part.length) return found;
    found.push(...(await Promise.all(part.map(filesOf))).flat());
  }
}
