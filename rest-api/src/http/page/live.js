// What happens in the service, while it happens: GET /events. While that cannot be had, views ask every few seconds.
import { onSession, open } from "./api.js";
import { useEffect, useRef } from "./hooks.js";

/** How long to wait before a lost stream is opened again, in seconds. */
const PAUSE = 3;

/** A stream on which nothing comes for so long is lost, in seconds. The service sends something every 15 s. */
const SILENCE = 45;

/** How long a follower has at least before it is told again, and what is added at random, in milliseconds: not all pages
 * shall ask at once. */
const LEAST_PAUSE = 3000;
const SPREAD = 500;

/** How often a follower looks while there is a stream, in milliseconds: not everything is an event. */
const QUIET = 15_000;

const followers = new Set();
let controller;
let isOpen = false;
let lastId;

/**
 * Calls `run` after each event that `isAbout` accepts: `{ name, data }`, where the name is `ingest` or `revision`; and
 * after `reset`, when events may be missing. While there is no stream it calls `run` every `seconds` instead, while there
 * is one now and then (`QUIET`). Returns what ends this.
 *
 * A browser has few connections for one service. So only visible pages hold a stream, and those that wait in the
 * background (`always`).
 */
export function follow(seconds, run, { isAbout = () => true, always = false } = {}) {
  let timer;
  let last = Date.now();
  const tell = () => {
    last = Date.now();
    timer = undefined;
    run();
  };
  const follower = {
    always,
    hear(event) {
      if (event.name !== "reset" && !isAbout(event)) return;
      timer ??= setTimeout(tell, Math.max(last + LEAST_PAUSE - Date.now(), 0) + Math.random() * SPREAD);
    },
  };
  const poll = setInterval(() => {
    const isDue = !isOpen || Date.now() - last >= QUIET;
    if (isDue && (always || !document.hidden)) tell();
  }, seconds * 1000);
  followers.add(follower);
  update();
  return () => {
    clearInterval(poll);
    clearTimeout(timer);
    followers.delete(follower);
    update();
  };
}

/** As [`follow`], while a view is shown. */
export function useLive(seconds, run, options = {}) {
  const latest = useRef();
  latest.current = { run, isAbout: options.isAbout ?? (() => true) };
  useEffect(
    () => follow(seconds, () => latest.current.run(), { ...options, isAbout: (event) => latest.current.isAbout(event) }),
    [seconds],
  );
}

/** Opens the stream if somebody needs it, and closes it if nobody does. */
function update() {
  const isNeeded = [...followers].some((follower) => follower.always || !document.hidden);
  if (isNeeded && !controller) {
    controller = new AbortController();
    keepOpen(controller);
  } else if (!isNeeded && controller) {
    controller.abort();
    controller = undefined;
    isOpen = false;
  }
}

async function keepOpen(own) {
  while (!own.signal.aborted) {
    let pause = PAUSE;
    try {
      await read(own.signal);
    } catch (problem) {
      pause = problem.retryAfter ?? PAUSE;
    }
    if (own !== controller) return;
    isOpen = false;
    await new Promise((done) => setTimeout(done, pause * (500 + Math.random() * 1000)));
  }
}

async function read(signal) {
  const lost = new AbortController();
  const abort = () => lost.abort();
  signal.addEventListener("abort", abort);
  let silence = setTimeout(abort, SILENCE * 1000);
  try {
    const headers = { accept: "text/event-stream", ...(lastId && { "last-event-id": lastId }) };
    const response = await open("/events", { headers, signal: lost.signal });
    isOpen = true;
    hear({ name: "reset" });
    let text = "";
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      clearTimeout(silence);
      silence = setTimeout(abort, SILENCE * 1000);
      const parts = `${text}${value}`.split("\n\n");
      text = parts.pop();
      parts.forEach(hearText);
    }
  } finally {
    clearTimeout(silence);
    signal.removeEventListener("abort", abort);
  }
}

/** Hears one event of the stream. A line that begins with a colon is none. */
function hearText(text) {
  const fields = Object.fromEntries(text.split("\n").map((line) => line.split(/: (.*)/s)));
  if (fields.id) lastId = fields.id;
  if (fields.event) hear({ name: fields.event, data: fields.data && JSON.parse(fields.data) });
}

function hear(event) {
  for (const follower of followers) follower.hear(event);
}

document.addEventListener("visibilitychange", update);
// What one may see depends on who one is.
onSession(() => {
  controller?.abort();
  controller = undefined;
  isOpen = false;
  lastId = undefined;
  update();
});
