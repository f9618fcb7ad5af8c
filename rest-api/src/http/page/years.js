// The years as a histogram. A range is dragged over it, or set with the two handles.
import { html, useRef, useState } from "./ui.js";
import { t } from "./messages.js";

const WIDTH = 240;
const HEIGHT = 56;

/** Parses the value of the filter: a year, or a range of which one end may be open. */
function parseYears(text) {
  const match = /^(\d*)(\.\.)?(\d*)$/.exec(text ?? "");
  if (!match || (!match[1] && !match[3])) return undefined;
  const [first, last] = [match[1], match[2] ? match[3] : match[1]];
  return { first: first ? Number(first) : undefined, last: last ? Number(last) : undefined };
}

/** Shows how many movies each year has: `counts` as `/years` answers. Calls `onRange` with the value of the filter. */
export function Years({ counts, value, onRange }) {
  const drawing = useRef();
  const [dragged, setDragged] = useState();
  if (!counts.length) return null;
  const min = counts[0].year;
  const max = counts.at(-1).year;
  const span = max - min + 1;
  const chosen = parseYears(value) ?? {};
  const clamp = (year) => Math.min(Math.max(year, min), max);
  const range = dragged ?? { first: clamp(chosen.first ?? min), last: clamp(chosen.last ?? max) };
  const tallest = counts.reduce((most, { count }) => Math.max(most, count), 1);
  const x = (year) => ((year - min) / span) * WIDTH;

  const set = ({ first, last }) =>
    onRange(first === min && last === max ? undefined : first === last ? `${first}` : `${first}..${last}`);
  const yearAt = (event) => {
    const box = drawing.current.getBoundingClientRect();
    return clamp(min + Math.floor(((event.clientX - box.left) / box.width) * span));
  };
  const onPointerDown = (event) => {
    if (event.button) return;
    event.preventDefault();
    drawing.current.setPointerCapture(event.pointerId);
    const from = yearAt(event);
    setDragged({ from, first: from, last: from });
  };
  const onPointerMove = (event) => {
    if (!dragged) return;
    const to = yearAt(event);
    setDragged({ from: dragged.from, first: Math.min(dragged.from, to), last: Math.max(dragged.from, to) });
  };
  const onPointerUp = () => {
    if (!dragged) return;
    setDragged(undefined);
    set(dragged);
  };
  const handle = (end) => {
    const [low, high] = end === "first" ? [min, range.last] : [range.first, max];
    const move = (event) => {
      const steps = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10 };
      const to = { Home: low, End: high }[event.key] ?? range[end] + steps[event.key];
      if (Number.isNaN(to)) return;
      event.preventDefault();
      set({ ...range, [end]: Math.min(Math.max(to, low), high) });
    };
    return html`<g
      class="handle"
      role="slider"
      tabindex="0"
      aria-label=${t(`years.${end}`)}
      aria-valuemin=${low}
      aria-valuemax=${high}
      aria-valuenow=${range[end]}
      onKeyDown=${move}
    >
      <rect x=${x(end === "first" ? range.first : range.last + 1) - 2} y="0" width="4" height=${HEIGHT} rx="2" />
    </g>`;
  };
  return html`<div class="years">
    <svg
      ref=${drawing}
      viewBox=${`-3 0 ${WIDTH + 6} ${HEIGHT}`}
      preserveAspectRatio="none"
      role="group"
      aria-label=${t("years.label")}
      onPointerDown=${onPointerDown}
      onPointerMove=${onPointerMove}
      onPointerUp=${onPointerUp}
      onPointerCancel=${() => setDragged(undefined)}
    >
      <rect class="ground" x="0" y="0" width=${WIDTH} height=${HEIGHT} />
      ${counts.map(({ year, count }) => {
        const height = Math.max((count / tallest) * (HEIGHT - 4), 1.5);
        const isIn = year >= range.first && year <= range.last;
        return html`<rect
          class=${isIn ? "bar in" : "bar"}
          x=${x(year)}
          y=${HEIGHT - height}
          width=${Math.max((WIDTH / span) * 0.85, 0.6)}
          height=${height}
        />`;
      })}
      ${handle("first")} ${handle("last")}
    </svg>
    <p class="quiet">
      ${range.first === range.last ? range.first : t("years.range", range)}
      ${" · "}${t("movies", { n: counts.reduce((sum, { year, count }) => sum + (year >= range.first && year <= range.last ? count : 0), 0) })}
    </p>
  </div>`;
}
