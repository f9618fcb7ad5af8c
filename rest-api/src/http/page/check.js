// Files are dropped or chosen, and checked at once as the service would check them.
import { html, ProblemNote, useRef, useState } from "./ui.js";
import { ask } from "./api.js";
import { forgetList } from "./find.js";
import { locate, Violations } from "./violations.js";
import { bytes, t } from "./messages.js";

/** The largest file that the service checks and takes over HTTP, in bytes. */
const LARGEST = 8 * 1024 * 1024;

/** How many files are checked at once. */
const AT_ONCE = 2;

/** Where files are dropped, and what was found in them. */
export function Check({ mayAdd }) {
  const [files, setFiles] = useState([]);
  const [over, setOver] = useState(false);
  const queue = useRef([]);
  const running = useRef(0);
  const chooser = useRef();

  const update = (name, change) =>
    setFiles((now) => now.map((file) => (file.name === name ? { ...file, ...change } : file)));
  const next = async () => {
    const file = queue.current.shift();
    if (!file) return;
    running.current++;
    update(file.name, await check(file));
    running.current--;
    next();
  };
  const add = (added) => {
    const fresh = added.map(({ name, blob }) => ({ name, blob, state: "waiting" }));
    setFiles((now) => [...fresh, ...now.filter((file) => !fresh.some(({ name }) => name === file.name))]);
    queue.current.push(...fresh);
    while (running.current < AT_ONCE && queue.current.length) next();
  };
  const onDrop = async (event) => {
    event.preventDefault();
    setOver(false);
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
    add((await Promise.all(entries.map(filesOf))).flat());
  };
  const post = async (file) => {
    update(file.name, { state: "adding" });
    try {
      const { value } = await ask("/movies", await body(file.blob));
      forgetList();
      update(file.name, { state: "added", merged: value });
    } catch (problem) {
      update(file.name, { state: "valid", problem });
    }
  };
  return html`<section aria-labelledby="check-title">
    <h2 id="check-title">${t("check")}</h2>
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
      <p class="quiet">${t("check.what")}</p>
    </div>
    <ul class="checked" role="list" aria-live="polite">
      ${files.map((file) => html`<li key=${file.name}><${Checked} file=${file} onAdd=${mayAdd && (() => post(file))} /></li>`)}
    </ul>
  </section>`;
}

function Checked({ file, onAdd }) {
  const { name, blob, state, movies, problem, violations, count, sources, merged } = file;
  return html`<h3>${name} <span class="quiet">${bytes(blob.size)}</span></h3>
    ${state === "waiting" && html`<p class="quiet">${t("check.waiting")}</p>`}
    ${state === "valid" && html`<p><span class="state succeeded">${t("check.valid")}</span> ${t("movies", { n: movies })}</p>`}
    ${state === "valid" && onAdd && html`<p><button type="button" onClick=${onAdd}>${t("check.add")}</button></p>`}
    ${state === "adding" && html`<p class="quiet">${t("check.adding")}</p>`}
    ${state === "added" &&
    html`<p>
      <span class="state succeeded">${t("check.added")}</span>${" "}
      ${["inserted", "updated", "unchanged"].map((each) => t(`count.${each}`, { n: merged[each] })).join(", ")}
    </p>`}
    ${violations && html`<${Violations} violations=${violations} count=${count} name=${name} sources=${sources} />`}
    ${problem && html`<${ProblemNote} problem=${problem} />`}`;
}

/** Checks a file. Returns what is to be shown of it. */
async function check({ blob }) {
  if (blob.size > LARGEST)
    return { state: "refused", problem: { title: t("check.tooLarge"), detail: t("check.tooLarge.what") } };
  try {
    const { value } = await ask("/validate", { ...(await body(blob)), anonymous: true });
    return { state: "valid", movies: value.movies };
  } catch (problem) {
    if (!problem.violations) return { state: "refused", problem };
    const text = await textOf(blob);
    const { violations, violation_count: count } = problem;
    return {
      state: "rejected",
      violations,
      count,
      sources: text === undefined ? undefined : locate(text, violations),
    };
  }
}

async function body(blob) {
  return { method: "POST", headers: { "content-type": "application/json" }, body: await blob.arrayBuffer() };
}

/** Returns the text of a file; of one that is not UTF-8, or no longer there, nothing. */
async function textOf(blob) {
  try {
    const magic = new Uint8Array(await blob.slice(0, 2).arrayBuffer());
    const isGzip = magic[0] === 0x1f && magic[1] === 0x8b;
    const stream = isGzip ? blob.stream().pipeThrough(new DecompressionStream("gzip")) : blob.stream();
    const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
    return decoder.decode(await new Response(stream).arrayBuffer());
  } catch {
    return undefined;
  }
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
