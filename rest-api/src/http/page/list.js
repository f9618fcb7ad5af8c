// The movies as cards. Whatever the length of the list, the document has the cards of the window alone.
import { html, Picture, useEffect, useLayoutEffect, useRef, useState } from "./ui.js";
import { takeScroll } from "./route.js";
import { t } from "./messages.js";

/** The least width of a card, the gap between two, and how many rows are drawn beyond the window. */
const WIDTH = 290;
const GAP = 12;
const BEYOND = 4;

/** A browser draws nothing beyond some height. A list that is longer ends there, in pixels. */
const MAX_HEIGHT = 17_000_000;

/** Shows the list of `pages` in the window. */
export function MovieList({ pages, version, more }) {
  const list = useRef();
  const [view, setView] = useState({ columns: 1, row: 112, first: 0, last: 8 });

  const measure = () => {
    const element = list.current;
    if (!element) return;
    const width = element.clientWidth;
    const columns = Math.max(Math.floor((width + GAP) / (WIDTH + GAP)), 1);
    const row = (columns === 1 ? 76 : 100) + GAP;
    const top = -element.getBoundingClientRect().top;
    const first = Math.max(Math.floor(top / row) - BEYOND, 0);
    const last = Math.max(Math.ceil((top + innerHeight) / row), 1) + BEYOND;
    setView((before) =>
      before.columns === columns && before.row === row && before.first === first && before.last === last
        ? before
        : { columns, row, first, last },
    );
  };
  useEffect(() => {
    const observer = new ResizeObserver(measure);
    observer.observe(list.current);
    addEventListener("scroll", measure, { passive: true });
    addEventListener("resize", measure);
    return () => {
      observer.disconnect();
      removeEventListener("scroll", measure);
      removeEventListener("resize", measure);
    };
  }, []);
  const { columns, row } = view;
  const rows = Math.min(Math.ceil(pages.count / columns), Math.floor(MAX_HEIGHT / row));
  const first = Math.min(view.first, Math.max(rows - 1, 0));
  const last = Math.min(view.last, rows);
  useEffect(() => {
    pages.need(view.first * columns, Math.min(view.last * columns, pages.count));
  }, [pages, version, view]);
  useLayoutEffect(() => {
    measure();
    const top = pages.count ? takeScroll() : undefined;
    if (top !== undefined) scrollTo(0, top);
  }, [pages, version]);

  const onKeyDown = (event) => {
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns };
    const card = event.target.closest("[data-index]");
    if (!card || !(event.key in steps) || event.ctrlKey || event.metaKey || event.altKey) return;
    const next = list.current.querySelector(`[data-index="${Number(card.dataset.index) + steps[event.key]}"]`);
    if (!next) return;
    event.preventDefault();
    next.focus();
  };
  const cards = [];
  for (let index = first * columns; index < Math.min(last * columns, pages.count); index++) {
    const [line, column] = [Math.floor(index / columns), index % columns];
    const place = {
      top: `${line * row}px`,
      left: `calc((100% + ${GAP}px) / ${columns} * ${column})`,
      width: `calc((100% + ${GAP}px) / ${columns} - ${GAP}px)`,
      height: `${row - GAP}px`,
    };
    const movie = pages.at(index);
    const set = pages.isWhole ? pages.count : -1;
    cards.push(html`<li key=${index} style=${place} aria-setsize=${set} aria-posinset=${index + 1}>
      ${movie ? html`<${Card} movie=${movie} index=${index} />` : html`<div class="card blank"></div>`}
    </li>`);
  }
  return html`<ul class="movies" role="list" ref=${list} style=${{ height: `${rows * row}px` }} onKeyDown=${onKeyDown}>
      ${cards}
    </ul>
    ${rows * columns < pages.count && html`<p class="quiet">${t("find.narrow")}</p>`} ${more}`;
}

function Card({ movie, index }) {
  return html`<a class="card" href=${`#/movies/${movie.id}`} data-index=${index} data-movie=${movie.id}>
    <${Picture} movie=${movie} />
    <span class="words">
      <span class="name">${movie.title}</span>
      <span class="quiet">${movie.year}${movie.genres.length > 0 && ` · ${movie.genres.join(", ")}`}</span>
      ${movie.cast.length > 0 && html`<span class="quiet cast">${movie.cast.slice(0, 3).join(", ")}</span>`}
    </span>
  </a>`;
}
