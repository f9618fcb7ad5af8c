// Operations: whether all is well, by the metrics of the service.
import { html, Loading, ProblemNote, Title, useEffect, useEvery, useRef, useState } from "./ui.js";
import { askText } from "./api.js";
import { duration, number, t } from "./messages.js";

const SECONDS = 5;
const KEPT = 60;

/** Parses the Prometheus text format: a list of samples with name, labels and value. */
function parse(text) {
  const samples = [];
  for (const line of text.split("\n")) {
    const match = /^(\w+)(?:\{(.*)\})? (\S+)/.exec(line);
    if (!match) continue;
    const labels = Object.fromEntries(
      [...(match[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, name, value]) => [name, value]),
    );
    samples.push({ name: match[1], labels, value: Number(match[3]) });
  }
  return samples;
}

function sum(samples, name, labels = {}) {
  const wanted = samples.filter(
    (sample) =>
      sample.name === name &&
      Object.entries(labels).every(([key, value]) => [value].flat().includes(sample.labels[key])),
  );
  return wanted.length ? wanted.reduce((total, { value }) => total + value, 0) : undefined;
}

/** Returns what is shown, of the samples now and those before. */
function read(now, before) {
  const seconds = before ? (now.at - before.at) / 1000 : 0;
  const rate = (name, labels) => {
    const [a, b] = [sum(now.samples, name, labels) ?? 0, sum(before?.samples ?? [], name, labels) ?? 0];
    // A service that has started again counts from nothing.
    return before && a >= b ? (a - b) / seconds : undefined;
  };
  const [hit, miss] = ["hit", "miss"].map((result) => rate("mru_cache_requests_total", { result }));
  const requests = rate("mru_http_requests_total");
  return {
    database: sum(now.samples, "mru_database_up"),
    queued: sum(now.samples, "mru_ingests", { state: "queued" }),
    running: sum(now.samples, "mru_ingests", { state: "running" }),
    oldest: sum(now.samples, "mru_queue_oldest_age_seconds"),
    ended: scaled(rate("mru_ingests_ended_total"), 60),
    failed: scaled(rate("mru_ingests_ended_total", { state: "failed" }), 60),
    rejected: scaled(rate("mru_ingests_ended_total", { state: "rejected" }), 60),
    listener: sum(now.samples, "mru_database_listener_connected"),
    reconcile: sum(now.samples, "mru_reconcile_age_seconds"),
    missing: sum(now.samples, "mru_reconcile_missing"),
    requests,
    errors: rate("mru_http_requests_total", { status: "5xx" }),
    hits: hit + miss > 0 ? (hit / (hit + miss)) * 100 : undefined,
    waiting: sum(now.samples, "mru_database_pool_waiting"),
  };
}

const scaled = (value, factor) => (value === undefined ? undefined : value * factor);

/** What is shown: how, when it is not well, and which section of the manual says what to do. */
const TILES = [
  {
    name: "database",
    section: "failover",
    show: (value) => t(value ? "operations.up" : "operations.down"),
    isBad: (value) => value === 0,
  },
  { name: "queued", section: "troubleshooting", show: number, isBad: () => false },
  { name: "running", section: "following-a-file", show: number, isBad: () => false },
  { name: "oldest", section: "troubleshooting", show: duration, isBad: (value) => value > 600 },
  { name: "ended", section: "metrics", show: number, isBad: () => false },
  { name: "failed", section: "troubleshooting", show: number, isBad: (value) => value > 0 },
  { name: "requests", section: "metrics", show: number, isBad: () => false },
  { name: "errors", section: "the-log", show: number, isBad: (value) => value > 0 },
  { name: "hits", section: "metrics", show: (value) => t("percent", { n: number(value) }), isBad: () => false },
  { name: "listener", section: "metrics", show: (value) => t(value ? "operations.up" : "operations.down"), isBad: (value) => value === 0 },
  { name: "reconcile", section: "reconciling", show: (value) => duration(value), isBad: (value) => value > 7 * 86400 },
  { name: "missing", section: "reconciling", show: number, isBad: (value) => value > 0 },
  { name: "rejected", section: "following-a-file", show: number, isBad: () => false },
  { name: "waiting", section: "troubleshooting", show: number, isBad: (value) => value > 0 },
];

/** The view at `#/operations`. */
export default function Operations() {
  const [readings, setReadings] = useState([]);
  const [problem, setProblem] = useState();
  const last = useRef();
  const load = async () => {
    try {
      const now = { at: performance.now(), samples: parse(await askText("/metrics", { anonymous: true })) };
      const reading = read(now, last.current);
      last.current = now;
      setReadings((all) => [...all, reading].slice(-KEPT));
      setProblem(undefined);
    } catch (error) {
      setProblem(error);
    }
  };
  useEffect(() => void load(), []);
  useEvery(SECONDS, load);
  const latest = readings.at(-1);
  return html`<${Title}>${t("nav.operations")}<//>
    <p class="quiet">${t("operations.what", { n: SECONDS })}</p>
    ${problem && html`<${ProblemNote} problem=${problem.status === 404 ? { title: t("operations.private"), detail: t("operations.private.what") } : problem} retry=${load} />`}
    ${!latest && !problem && html`<${Loading} />`}
    ${
      latest &&
      html`<ul class="tiles" role="list">
      ${TILES.map((tile) => html`<li key=${tile.name}><${Tile} ...${tile} values=${readings.map((reading) => reading[tile.name])} /></li>`)}
    </ul>`
    }
    <p>${t("operations.elsewhere")} <${Manual} section="failure-queue" /></p>`;
}

function Tile({ name, section, show, isBad, values }) {
  const value = values.at(-1);
  const bad = value !== undefined && isBad(value);
  return html`<h2>${t(`operations.${name}`)}</h2>
    <p class=${bad ? "figure bad" : "figure"}>
      ${value === undefined ? "–" : show(value)} ${bad && html`<span class="state failed">${t("operations.look")}</span>`}
    </p>
    <${Chart} values=${values} />
    <p class="quiet">${t(`operations.${name}.what`)} <${Manual} section=${section} /></p>`;
}

/** A link to a section of docs/operations.md, which the service shows. */
function Manual({ section }) {
  const text = t("operations.manual", { section: t(`operations.section.${section}`) });
  return html`<a href=${`docs/operations#${section}`}>${text}</a>`;
}

/** The latest values as a line. */
function Chart({ values }) {
  const known = values.filter((value) => value !== undefined);
  const most = Math.max(...known, 1e-9);
  const points = values.map((value, index) =>
    value === undefined ? "" : `${((KEPT - values.length + index) / (KEPT - 1)) * 120},${29 - (value / most) * 26}`,
  );
  return html`<svg class="chart" viewBox="0 0 120 30" preserveAspectRatio="none" aria-hidden="true">
    <polyline points=${points.filter(Boolean).join(" ")} />
  </svg>`;
}
