// What narrows the list: chips of what is chosen, genres with their counts, years, people.
import { Fragment, html, useState } from "./ui.js";
import { Search } from "./search.js";
import { Years } from "./years.js";
import { number, t } from "./messages.js";

/** How many genres show at first. */
const FEW = 14;

/** The names of the filters in an address, which are those of the API. */
export const NAMES = ["title", "genre", "actor", "year"];

/** Returns the parameters without a value of a filter. */
export function without(params, name, value) {
  const kept = new URLSearchParams();
  for (const [key, each] of params) {
    if (key !== name || (value !== undefined && each !== value)) kept.append(key, each);
  }
  return kept;
}

/** Returns the parameters with a value of a filter added. */
function withValue(params, name, value) {
  const added = without(params, name, value);
  added.append(name, value);
  return added;
}

/** The chosen filters, each of which can be taken away. */
export function Chosen({ params, onChange }) {
  const chosen = [...params].filter(([name]) => NAMES.includes(name));
  if (!chosen.length) return null;
  return html`<ul class="chips" aria-label=${t("filters.chosen")}>
    ${chosen.map(
      ([name, value]) => html`<li>
        <button type="button" class="chip on" onClick=${() => onChange(without(params, name, value))}>
          <span>${t(`filters.is.${name}`, { value })}</span><span aria-hidden="true"> ×</span>
          <span class="hidden">${t("filters.remove")}</span>
        </button>
      </li>`,
    )}
    ${
      chosen.length > 1 &&
      html`<li>
      <button type="button" class="plain" onClick=${() => onChange(NAMES.reduce((rest, name) => without(rest, name), params))}>
        ${t("filters.clear")}
      </button>
    </li>`
    }
  </ul>`;
}

/** The filters. `genres` and `years` are as the API answers. */
export function Filters({ params, genres, years, onChange }) {
  return html`<${Fragment}>
    <section aria-labelledby="years-title">
      <h2 id="years-title">${t("filters.years")}</h2>
      <${Years}
        counts=${years}
        value=${params.get("year")}
        onRange=${(value) => {
          const rest = without(params, "year");
          onChange(value ? withValue(rest, "year", value) : rest);
        }}
      />
    </section>
    <section aria-labelledby="genres-title">
      <h2 id="genres-title">${t("filters.genres")}</h2>
      <${Genres} params=${params} genres=${genres} onChange=${onChange} />
    </section>
    <section aria-labelledby="people-title">
      <h2 id="people-title">${t("filters.people")}</h2>
      <${Search}
        id="actor"
        label=${t("filters.actor")}
        value=""
        kinds=${["actor"]}
        onPick=${({ text }) => void onChange(withValue(params, "actor", text))}
        onEnter=${(text) => {
          if (text.trim()) onChange(withValue(params, "actor", text.trim()));
          return "";
        }}
      />
    </section>
  <//>`;
}

function Genres({ params, genres, onChange }) {
  const [all, setAll] = useState(false);
  const chosen = params.getAll("genre");
  const isChosen = (genre) => chosen.some((value) => value.toLowerCase() === genre.toLowerCase());
  const shown = all ? genres : genres.filter(({ genre }, index) => index < FEW || isChosen(genre));
  return html`<ul class="chips">
      ${shown.map(({ genre, count }) => {
        const on = isChosen(genre);
        const toggle = () => {
          const value = chosen.find((each) => each.toLowerCase() === genre.toLowerCase());
          onChange(on ? without(params, "genre", value) : withValue(params, "genre", genre));
        };
        return html`<li key=${genre}>
          <button type="button" class=${on ? "chip on" : "chip"} aria-pressed=${String(on)} onClick=${toggle}>
            <span>${genre}</span> <span class="count">${number(count)}</span>
          </button>
        </li>`;
      })}
    </ul>
    ${
      genres.length > FEW &&
      html`<button type="button" class="plain" aria-expanded=${String(all)} onClick=${() => setAll(!all)}>
      ${all ? t("filters.fewer") : t("filters.more", { n: genres.length - FEW })}
    </button>`
    }`;
}
