// What TMDB says of a movie, where the operator has switched it on.
import { html, useLoaded, webAddress } from "./ui.js";
import { ask } from "./api.js";
import { number, t } from "./messages.js";

const isOn = document.getElementById("app").dataset.details === "on";

/** Returns what TMDB says of a movie; nothing if it says nothing, or not now. */
export function useDetails(path) {
  const load = (signal) => (isOn ? ask(`${path}/details`, { signal, anonymous: true }) : Promise.resolve());
  const { value } = useLoaded(load, [path]);
  return value?.value.state === "found" ? value.value : undefined;
}

/** Shows it, with the notice that goes with it. */
export function Details({ details, extract }) {
  if (!details) return null;
  const { overview, runtime, rating, tmdb_url, imdb_id, trailer, attribution } = details;
  const links = [
    ["TMDB", tmdb_url],
    ["IMDb", imdb_id && `https://www.imdb.com/title/${imdb_id}/`],
    [t("details.trailer"), trailer],
  ];
  return html`<section class="details" aria-labelledby="details-title">
    <h2 id="details-title">${t("details")}</h2>
    ${overview && overview !== extract && html`<p class="extract">${overview}</p>`}
    <ul class="inline">
      ${runtime && html`<li>${t("minutes", { n: runtime })}</li>`}
      ${rating && html`<li>${t("details.rating", { average: number(rating.average), n: rating.votes })}</li>`}
      ${links
        .filter(([, address]) => address && webAddress(address))
        .map(([name, address]) => html`<li><a href=${address} rel="noopener noreferrer">${name}</a></li>`)}
    </ul>
    <p class="quiet">${attribution.text} <a href=${webAddress(attribution.url)} rel="noopener noreferrer">TMDB</a></p>
  </section>`;
}
