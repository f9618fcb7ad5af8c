// Files that were dropped: checked, put into the bucket, and followed until their ingests have ended. They go on while
// other views are shown.
import { ask, json, onSession } from "./api.js";
import { forgetList } from "./find.js";
import { follow } from "./live.js";
import { useEffect, useState } from "./hooks.js";
import { ENDED } from "./ingests.js";
import { locate } from "./violations.js";
import { t } from "./messages.js";

/** The largest file that the service checks and takes over HTTP, and the largest that is put from here, in bytes. */
const LARGEST_CHECKED = 8 * 1024 * 1024;
const LARGEST_PUT = 512 * 1024 * 1024;

/** How many files are checked, and how many are put, at once. */
const CHECKS = 2;
const PUTS = 3;

/** How often the ingest of a file is asked for while there is no stream of events, in seconds. */
const SECONDS = 2;

let files = [];
let lastFile = 0;
const listeners = new Set();
const checks = queueOf(CHECKS);
const puts = queueOf(PUTS);
/** A digest holds the whole file in memory. */
const digests = queueOf(1);

/** Returns the files, the newest first. */
export function useTransfers() {
  const [value, setValue] = useState(files);
  useEffect(() => {
    listeners.add(setValue);
    setValue(files);
    return () => listeners.delete(setValue);
  }, []);
  return value;
}

function set(next) {
  files = next;
  for (const listener of listeners) listener(files);
}

function update(id, change) {
  set(files.map((file) => (file.id === id ? { ...file, ...change } : file)));
}

const current = (id) => files.find((file) => file.id === id);

/** Runs at most `most` tasks at once. */
function queueOf(most) {
  const waiting = [];
  let running = 0;
  const next = async () => {
    if (running >= most || !waiting.length) return;
    running++;
    try {
      await waiting.shift()();
    } finally {
      running--;
      next();
    }
  };
  return (task) => {
    waiting.push(task);
    next();
  };
}

/** Adds files, and checks them. One with the name of another takes its place, unless that is on its way. */
export function add(added) {
  const fresh = added.map(({ name, blob }) => ({ id: ++lastFile, name, blob, state: "waiting" }));
  const stays = (file) => isOnItsWay(file) || !fresh.some(({ name }) => name === file.name);
  set([...fresh, ...files.filter(stays)]);
  for (const file of fresh) checks(async () => update(file.id, await check(file)));
}

const isOnItsWay = ({ state }) => ["queued", "putting", "put"].includes(state);

/** Takes a file from the list. */
export function remove(id) {
  const file = current(id);
  file?.controller?.abort();
  file?.stop?.();
  set(files.filter((other) => other.id !== id));
}

/** Checks a file. Returns what is to be shown of it. */
async function check({ blob }) {
  if (blob.size > LARGEST_PUT)
    return { state: "refused", problem: { title: t("check.tooLarge"), detail: t("check.tooLarge.what") } };
  if (blob.size > LARGEST_CHECKED) return { state: "unchecked" };
  try {
    const { value } = await ask("/validate", { ...(await body(blob)), anonymous: true });
    return { state: "valid", movies: value.movies };
  } catch (problem) {
    if (!problem.violations) return { state: "refused", problem };
    const { violations, violation_count: count } = problem;
    return { state: "rejected", violations, count, sources: await sourcesOf(blob, violations) };
  }
}

/** Returns where the violations are in the text of a file; nothing if that cannot be told. */
async function sourcesOf(blob, violations) {
  const text = await textOf(blob);
  try {
    return text === undefined ? undefined : locate(text, violations);
  } catch {
    // It is nested deeper than a program here can follow.
    return undefined;
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

/** Posts the movies of a file, without putting it into the bucket. */
export async function post(id) {
  update(id, { state: "adding", problem: undefined });
  try {
    const { value } = await ask("/movies", await body(current(id).blob));
    forgetList();
    update(id, { state: "added", merged: value });
  } catch (problem) {
    update(id, { state: "valid", problem });
  }
}

/** Puts a file into the bucket under a key, and follows its ingest. */
export function put(id, key) {
  const before = current(id);
  const controller = new AbortController();
  update(id, { state: "queued", key, controller, problem: undefined, sent: 0 });
  puts(async () => {
    try {
      if (controller.signal.aborted) return;
      update(id, { state: "putting" });
      // An earlier version of the file may have been put under the same key.
      const last = (await newestIngests(key, 1))[0]?.id ?? 0;
      await send(id, key, before.blob, controller.signal);
      if (!current(id)) return;
      const stop = follow(SECONDS, () => look(id, key, last), {
        isAbout: ({ data }) => data?.key === key,
        always: true,
      });
      update(id, { state: "put", stop });
      look(id, key, last);
    } catch (problem) {
      if (current(id)) update(id, { state: before.state, problem: controller.signal.aborted ? undefined : problem });
    }
  });
}

/** Stops a file that is on its way. */
export function cancel(id) {
  const { controller, state } = current(id);
  controller.abort();
  if (state === "queued") update(id, { state: current(id).movies === undefined ? "unchecked" : "valid" });
}

async function newestIngests(key, limit) {
  return (await ask(`/ingests?${new URLSearchParams({ key, limit })}`)).value;
}

/** Sends a file by a presigned request: to the bucket itself, with what the service has signed. */
async function send(id, key, blob, signal) {
  if (!crypto.subtle) throw { title: t("put.insecure"), detail: t("put.insecure.what") };
  const digest = await new Promise((done, fail) =>
    digests(() => blob.arrayBuffer().then((bytes) => crypto.subtle.digest("SHA-256", bytes)).then(done, fail)),
  );
  const wanted = {
    key,
    size: blob.size,
    content_type: blob.type || "application/json",
    checksum_sha256: btoa(String.fromCharCode(...new Uint8Array(digest))),
  };
  const { value: signed } = await ask("/uploads", { ...json("POST", wanted), signal });
  // fetch() tells no progress.
  const request = new XMLHttpRequest();
  request.open(signed.method, signed.url);
  for (const [name, value] of Object.entries(signed.headers)) request.setRequestHeader(name, value);
  request.upload.onprogress = ({ loaded }) => update(id, { sent: loaded });
  signal.addEventListener("abort", () => request.abort());
  await new Promise((done, fail) => {
    const problem = (detail) => fail({ title: t("put.refused"), detail });
    request.onload = () => (request.status < 300 ? done() : problem(reason(request)));
    request.onerror = () => problem(t("put.unreachable"));
    request.onabort = () => fail({});
    request.send(blob);
  });
}

/** Returns what the bucket says of a request that it refuses. */
function reason({ status, responseText }) {
  const text = /<Message>([^<]*)<\/Message>/.exec(responseText)?.[1];
  return text ? `${status}: ${text}` : String(status);
}

/** Looks what became of a file that was put, after the ingest `last`. */
async function look(id, key, last) {
  try {
    const ingest = (await newestIngests(key, 20)).findLast((candidate) => candidate.id > last);
    if (!ingest || !current(id)) return;
    const isOver = ENDED.includes(ingest.state);
    const wasOver = ENDED.includes(current(id).ingest?.state);
    update(id, { ingest, state: isOver ? "ended" : "put" });
    if (!isOver || wasOver) return;
    current(id).stop?.();
    forgetList();
    notice(ingest);
  } catch {
    // It is asked again, also while there is a stream.
  }
}

/** Whether notices may be shown: `granted`, `denied` or `default`; undefined if the browser has none. */
export const noticeState = () => globalThis.Notification?.permission;

/** Tells of an ingest that has ended to somebody who looks elsewhere. */
function notice({ id, key, state }) {
  if (!document.hidden || noticeState() !== "granted") return;
  const shown = new Notification(t("notice", { key, state: t(`state.${state}`) }), { tag: `ingest-${id}` });
  shown.onclick = () => {
    window.focus();
    location.hash = `#/ingests/${id}`;
  };
}

// What somebody has dropped is nothing for the next one.
onSession(() => files.forEach(({ id }) => remove(id)));

addEventListener("beforeunload", (event) => {
  if (files.some(({ state }) => state === "queued" || state === "putting")) event.preventDefault();
});
