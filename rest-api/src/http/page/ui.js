// What every view uses: the renderer, and small elements.
import { Fragment, h, render } from "./preact.js";
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "./hooks.js";
import htm from "./htm.js";
import { t } from "./messages.js";
import { HEADING, takeFocus } from "./route.js";

export const html = htm.bind(h);
export { Fragment, render, useEffect, useLayoutEffect, useMemo, useRef, useState };

/** Runs `load(signal)` again whenever one of `inputs` changes. Returns what it has found, or its problem. */
export function useLoaded(load, inputs) {
  const [result, setResult] = useState({ loading: true });
  const [round, setRound] = useState(0);
  useEffect(() => {
    const controller = new AbortController();
    setResult((before) => ({ ...before, loading: true }));
    load(controller.signal).then(
      (value) => setResult({ value }),
      (problem) => controller.signal.aborted || setResult({ problem }),
    );
    return () => controller.abort();
  }, [...inputs, round]);
  return { ...result, reload: () => setRound((n) => n + 1) };
}

/** Calls `run` every `seconds` while the page is visible. */
export function useEvery(seconds, run) {
  const latest = useRef();
  latest.current = run;
  useEffect(() => {
    const timer = setInterval(() => document.hidden || latest.current(), seconds * 1000);
    return () => clearInterval(timer);
  }, [seconds]);
}

/** Says what went wrong, what to do, and tries again: by itself once the service may be asked again. */
export function ProblemNote({ problem, retry }) {
  const busy = problem.status === 503 || problem.code === "unreachable";
  const [left, setLeft] = useState(0);
  useEffect(() => {
    if (!busy || !retry) return undefined;
    const seconds = problem.retryAfter || 3;
    const end = Date.now() + seconds * 1000;
    setLeft(seconds);
    const timer = setInterval(() => {
      const rest = Math.ceil((end - Date.now()) / 1000);
      setLeft(Math.max(rest, 0));
      if (rest <= 0) {
        clearInterval(timer);
        retry();
      }
    }, 250);
    return () => clearInterval(timer);
  }, [problem]);
  const title =
    problem.code === "unreachable"
      ? t("problem.unreachable")
      : problem.status === 503
        ? t("problem.busy")
        : problem.title;
  return html`<div class="note bad" role="alert">
    <p><strong>${title}</strong></p>
    ${problem.detail && html`<p>${problem.detail}</p>`}
    ${problem.violations?.map(({ pointer, expected, found }) => html`<p><code>${pointer}</code> ${t("violation", { expected, found })}</p>`)}
    ${problem.status === 401 && html`<p><a href="#/account">${t("account.signIn")}</a></p>`}
    ${
      retry &&
      html`<p>
      <button type="button" onClick=${retry}>${t("again")}</button>
      ${busy && html` <span class="quiet">${t("problem.retryIn", { n: left })}</span>`}
    </p>`
    }
  </div>`;
}

/** A note that something is on its way. It shows after a moment, so that quick answers do not flicker. */
export function Loading() {
  return html`<p class="loading quiet" role="status">${t("loading")}</p>`;
}

const showsThumbnails = document.getElementById("app").dataset.thumbnails === "on";

/** What a list needs to know of a movie for its picture. */
export const PICTURE_FIELDS = showsThumbnails ? "title,year,thumbnail" : "title,year";

/** The picture of a movie: a poster, its own one where the operator allows it, or a drawn one. */
export function Picture({ movie, poster }) {
  const [broken, setBroken] = useState();
  const source = poster ?? (showsThumbnails && webAddress(movie.thumbnail));
  if (!source || source === broken) return html`<${Drawn} movie=${movie} />`;
  return html`<img class="picture" src=${source} alt="" loading="lazy" referrerpolicy="no-referrer" onError=${() => setBroken(source)} />`;
}

/** A drawn picture: always the same for the same title and year, and no request. */
function Drawn({ movie }) {
  const text = `${movie.title}${movie.year}`;
  let seed = 7;
  for (const char of text) seed = (seed * 31 + char.codePointAt(0)) % 100003;
  const hue = seed % 360;
  const [x, y, r] = [12 + (seed % 37), 18 + (seed % 53), 16 + (seed % 19)];
  const letter = [...movie.title].find((char) => /[\p{L}\p{N}]/u.test(char)) ?? "?";
  const tilt = (seed % 50) - 25;
  return html`<svg class="picture" viewBox="0 0 60 90" aria-hidden="true" focusable="false">
    <rect width="60" height="90" fill="hsl(${hue} 22% 34%)" />
    <rect x="-20" y="56" width="110" height="60" fill="hsl(${(hue + 40) % 360} 24% 26%)" transform="rotate(${tilt} 30 60)" />
    <circle cx=${x} cy=${y} r=${r} fill="hsl(${(hue + 20) % 360} 28% 44%)" />
    <text x="30" y="56" text-anchor="middle" font-size="30" font-weight="600" fill="#fff">${letter.toUpperCase()}</text>
  </svg>`;
}

/** A link to the movies that a filter leaves. */
export function FilterLink({ name, value }) {
  return html`<a href=${`#/?${new URLSearchParams({ [name]: value })}`}>${value}</a>`;
}

/** Names as a list of links to searches. */
export function FilterLinks({ name, values }) {
  return html`<ul class="inline">
    ${values.map((value) => html`<li><${FilterLink} name=${name} value=${value} /></li>`)}
  </ul>`;
}

/** The heading of a view. It gets the focus when the view is entered: screen readers go on from there. */
export function Title({ children }) {
  useEffect(() => {
    const id = takeFocus();
    if (id) document.getElementById(id).focus({ preventScroll: true });
  });
  return html`<h1 id=${HEADING} tabindex="-1">${children}</h1>`;
}

/** The state of an ingest, in a colour and in a word. */
export function State({ state }) {
  return html`<span class=${`state ${state}`}>${t(`state.${state}`)}</span>`;
}

/** Offers a text as a file. */
export function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = document.createElement("a");
  Object.assign(link, { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

/** Returns a text if it is the address of a page, which alone may become a link. */
export function webAddress(text) {
  try {
    const url = new URL(text);
    return url.protocol === "https:" || url.protocol === "http:" ? url.href : undefined;
  } catch {
    return undefined;
  }
}
