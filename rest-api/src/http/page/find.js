// Find: search, filters, and the list of what is found. All of its state is in the address.
import { html, Loading, PICTURE_FIELDS, ProblemNote, Title, useEffect, useLoaded, useMemo, useRef, useState } from "./ui.js";
import { ask } from "./api.js";
import { FIRST, Pages } from "./pages.js";
import { current, go, href } from "./route.js";
import { Chosen, Filters, NAMES } from "./filters.js";
import { MovieList } from "./list.js";
import { Search } from "./search.js";
import { t } from "./messages.js";

const FIELDS = `${PICTURE_FIELDS},genres,cast`;
const SORTS = ["-year", "year", "title", "-title"];

/** The list that was shown last, so that Back finds it as it was. */
let kept;

/** Lets the list be read anew: movies have changed. */
export function forgetList() {
  kept?.pages.close();
  kept = undefined;
}

/** Returns the parameters that the API gets: these filters, and the text of the search. */
function queryOf(params, names) {
  const query = new URLSearchParams();
  for (const [name, value] of params) if (names.includes(name) && value) query.append(name, value);
  const text = params.get("q")?.trim();
  if (text) query.set("q", text);
  return query;
}

function listOf(params) {
  const query = queryOf(params, NAMES);
  if (!query.has("q")) query.set("sort", SORTS.includes(params.get("sort")) ? params.get("sort") : SORTS[0]);
  query.set("fields", FIELDS);
  query.set("limit", FIRST);
  return `/movies?${query}`;
}

/** Reads a list anew whenever its address changes. */
function usePages(address) {
  const [version, setVersion] = useState(0);
  const pages = useMemo(() => {
    if (kept?.address !== address || kept.pages.problem) {
      kept?.pages.close();
      kept = { address, pages: new Pages(address) };
    }
    return kept.pages;
  }, [address]);
  pages.onChange = () => setVersion((n) => n + 1);
  return { pages, version };
}

/** The view at `#/`. */
export function Find({ params }) {
  const { pages, version } = usePages(listOf(params));
  const shown = useRef(pages);
  // The list that is on its way takes the place of the present one when it has arrived.
  if (pages.count || pages.isWhole || pages.problem) shown.current = pages;
  const all = queryOf(params, NAMES).toString();
  const others = queryOf(params, ["title", "genre", "actor"]).toString();
  const counts = useLoaded(
    async (signal) => {
      const options = { signal, anonymous: true };
      const [genres, years, total] = await Promise.all([
        ask(`/genres?${all}`, options),
        ask(`/years?${others}`, options),
        ask(`/years?${all}`, options),
      ]);
      return {
        genres: genres.value,
        years: years.value,
        total: total.value.reduce((n, { count }) => n + count, 0),
      };
    },
    [all],
  );
  const lastCounts = useRef({ genres: [], years: [] });
  if (counts.value) lastCounts.current = counts.value;
  const { genres, years, total } = lastCounts.current;

  const change = (next) => go(href("", next));
  const setText = (text, options) => {
    // What is typed arrives later: the filters may have changed meanwhile.
    const next = current().params;
    if (text.trim()) next.set("q", text);
    else next.delete("q");
    go(href("", next), options);
  };
  const text = params.get("q") ?? "";
  useEffect(() => {
    document.title = t("title", { view: text || t("find.title") });
  }, [text]);
  useEffect(() => {
    // The first request of a list, and again after a problem.
    if (!pages.problem && !pages.count) pages.need(0, 0);
  }, [pages, version]);
  useEffect(() => {
    // What was asked while the service did not answer.
    if (counts.problem && pages.count && !pages.problem) counts.reload();
  }, [version]);
  const list = shown.current;
  return html`<div class="find">
    <div class="find-top">
      <${Title}><span class="hidden">${t("find.title")}</span><//>
      <${Search}
        id="q"
        big
        label=${t("find.search")}
        placeholder=${t("find.placeholder")}
        value=${text}
        onText=${(typed) => setText(typed, { replace: current().params.has("q") })}
        onEnter=${(typed) => setText(typed)}
        onPick=${(suggestion) => {
          const next = new URLSearchParams(params);
          next.delete("q");
          if (suggestion.kind === "actor") next.append("actor", suggestion.text);
          else next.set("q", suggestion.text);
          change(next);
          return suggestion.kind === "actor" ? "" : suggestion.text;
        }}
      />
      <${Chosen} params=${params} onChange=${change} />
    </div>
    <details class="filters" open=${innerWidth >= 900}>
      <summary>${t("filters.title")}</summary>
      <${Filters} params=${params} genres=${genres} years=${years} onChange=${change} />
    </details>
    <section class="results" aria-label=${t("find.results")} aria-busy=${String(list !== pages)}>
      <div class="bar">
        <p role="status">${status(list, text ? counts.value?.total : total, text)}</p>
        ${
          !text &&
          html`<label
          >${t("find.sort")}${" "}
          <select
            onChange=${(event) => {
              const next = new URLSearchParams(params);
              next.set("sort", event.target.value);
              change(next);
            }}
          >
            ${SORTS.map((sort) => html`<option value=${sort} selected=${sort === (params.get("sort") ?? SORTS[0])}>${t(`sort.${sort}`)}</option>`)}
          </select></label
        >`
        }
      </div>
      <${Results} pages=${list} version=${version} params=${params} text=${text} onChange=${change} />
    </section>
  </div>`;
}

function status(pages, total, text) {
  if (pages.problem) return "";
  if (!pages.count) return pages.isWhole ? "" : t("loading");
  if (pages.isWhole) return t("movies", { n: pages.count });
  if (total !== undefined) return t("movies", { n: total });
  return text ? t("find.atLeast", { n: pages.count }) : "";
}

function Results({ pages, version, params, text, onChange }) {
  const problem = pages.problem && html`<${ProblemNote} problem=${pages.problem} retry=${() => pages.retry()} />`;
  if (pages.count) return html`<${MovieList} pages=${pages} version=${version} more=${problem} />`;
  if (problem) return problem;
  if (!pages.isWhole) return html`<${Loading} />`;
  if ([...params].some(([name]) => name === "q" || NAMES.includes(name))) {
    return html`<div class="note">
      <p><strong>${t("find.nothing")}</strong></p>
      <p>${t(text ? "find.nothing.text" : "find.nothing.filters")}</p>
      <p><button type="button" onClick=${() => onChange(new URLSearchParams())}>${t("find.all")}</button></p>
    </div>`;
  }
  return html`<div class="note">
    <p><strong>${t("find.empty")}</strong></p>
    <p><a href="#/files">${t("find.empty.what")}</a></p>
  </div>`;
}
