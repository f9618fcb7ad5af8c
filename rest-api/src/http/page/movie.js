// One movie: all that is known of it, and what editors do with it.
import {
  FilterLink,
  FilterLinks,
  html,
  Loading,
  Picture,
  PICTURE_FIELDS,
  ProblemNote,
  Title,
  useEffect,
  useLoaded,
  useState,
  webAddress,
} from "./ui.js";
import { ask } from "./api.js";
import { Details, useDetails } from "./details.js";
import { Dialog } from "./dialog.js";
import { Edit } from "./edit.js";
import { forgetList } from "./find.js";
import { History, origin } from "./history.js";
import { date, t } from "./messages.js";

/** The view at `#/movies/{id}`. */
export default function Movie({ id, may }) {
  const path = `/movies/${encodeURIComponent(id ?? "")}`;
  const { value, problem, loading, reload } = useLoaded((signal) => ask(path, { signal }), [path]);
  const details = useDetails(path);
  const [editing, setEditing] = useState(false);
  const [asked, setAsked] = useState();
  const [said, setSaid] = useState("");
  const movie = value?.value;
  useEffect(() => {
    if (movie) document.title = t("title", { view: `${movie.title} (${movie.year})` });
  }, [movie]);
  if (problem?.code === "withdrawn") return html`<${Withdrawn} problem=${problem} path=${path} />`;
  if (problem) {
    return html`<${Title}>${t("nav.movies")}<//><${ProblemNote} problem=${problem} retry=${problem.status === 404 ? undefined : reload} />`;
  }
  if (!movie) return loading && html`<${Loading} />`;

  const done = (message) => {
    forgetList();
    setEditing(false);
    setAsked(undefined);
    setSaid(t(message));
    reload();
  };
  const hold = async () => {
    await ask(`${path}/hold`, { method: movie.held ? "DELETE" : "PUT" });
    done(movie.held ? "movie.released" : "movie.isHeld");
  };
  const remove = async () => {
    await ask(path, { method: "DELETE", headers: { "if-match": value.etag } });
    done("movie.deleted");
  };
  const page = webAddress(movie.href);
  return html`<article class="movie">
    <${Picture} movie=${movie} poster=${details?.poster} />
    <div class="about">
      <${Title}>${movie.title} <span class="year"><${FilterLink} name="year" value=${String(movie.year)} /></span><//>
      <p class="said" role="status">${said}</p>
      ${movie.held && html`<p class="badge">${movie.hold ? t("movie.heldBy", { name: movie.hold.held_by, at: date(movie.hold.held_at) }) : t("movie.held")}</p>`}
      ${
        editing
          ? html`<${Edit} path=${path} loaded=${value} onSaved=${() => done("movie.saved")} onCancel=${() => setEditing(false)} />`
          : html`${movie.extract && html`<p class="extract">${movie.extract}</p>`}
            <dl>
              ${movie.genres.length > 0 && html`<dt>${t("movie.genres")}</dt><dd><${FilterLinks} name="genre" values=${movie.genres} /></dd>`}
              ${movie.cast.length > 0 && html`<dt>${t("movie.cast")}</dt><dd><${FilterLinks} name="actor" values=${movie.cast} /></dd>`}
              ${movie.href && html`<dt>${t("movie.href")}</dt><dd>${page ? html`<a href=${page} rel="noopener noreferrer">${movie.href}</a>` : movie.href}</dd>`}
              ${movie.thumbnail && html`<dt>${t("movie.thumbnail")}</dt><dd><${Thumbnail} movie=${movie} /></dd>`}
              <dt>${t("movie.origin")}</dt>
              <dd>${origin(movie.provenance)}</dd>
            </dl>
            <${Details} details=${details} extract=${movie.extract} />`
      }
      ${
        may("editor") &&
        !editing &&
        html`<p class="buttons">
        <button type="button" class="main" onClick=${() => setEditing(true)}>${t("movie.edit")}</button>
        <button type="button" onClick=${() => setAsked("hold")}>${t(movie.held ? "movie.release" : "movie.hold")}</button>
        <button type="button" class="danger" onClick=${() => setAsked("delete")}>${t("movie.delete")}</button>
      </p>`
      }
    </div>
    ${
      asked === "hold" &&
      html`<${Dialog} title=${t(movie.held ? "movie.release" : "movie.hold")} action=${t(movie.held ? "movie.release" : "movie.hold")} onConfirm=${hold} onClose=${() => setAsked(undefined)}>
      <p>${t(movie.held ? "movie.release.what" : "movie.hold.what")}</p>
    <//>`
    }
    ${
      asked === "delete" &&
      html`<${Dialog} title=${t("movie.delete")} action=${t("movie.delete")} danger onConfirm=${remove} onClose=${() => setAsked(undefined)}>
      <p>${t("movie.delete.what", { title: movie.title, year: movie.year })}</p>
    <//>`
    }
    <${History} path=${path} state=${value.etag} />
    <${Similar} movie=${movie} />
  </article>`;
}

function Thumbnail({ movie }) {
  const address = webAddress(movie.thumbnail);
  const size =
    movie.thumbnail_width && movie.thumbnail_height ? ` (${movie.thumbnail_width} × ${movie.thumbnail_height})` : "";
  return html`${address ? html`<a href=${address} rel="noopener noreferrer">${movie.thumbnail}</a>` : movie.thumbnail}${size}`;
}

/** How many similar movies show, and how many years apart they may be. */
const SIMILAR = 8;
const YEARS_APART = 2;

/** Movies with a title like this one, and then those of the same genres and time. */
function Similar({ movie }) {
  const { value } = useLoaded(
    async (signal) => {
      const read = async (parameters) => {
        const query = new URLSearchParams([...parameters, ["limit", SIMILAR + 1], ["fields", PICTURE_FIELDS]]);
        return (await ask(`/movies?${query}`, { signal, anonymous: true })).value;
      };
      const byTitle = await read([["q", movie.title.slice(0, 256)]]);
      if (byTitle.length > SIMILAR || !movie.genres.length) return byTitle;
      const years = `${movie.year - YEARS_APART}..${movie.year + YEARS_APART}`;
      const byGenre = await read([
        ...movie.genres.slice(0, 3).map((genre) => ["genre", genre.slice(0, 256)]),
        ["year", years],
      ]);
      return [...byTitle, ...byGenre.filter(({ id }) => byTitle.every((other) => other.id !== id))];
    },
    [movie.id],
  );
  const others = value?.filter(({ id }) => id !== movie.id).slice(0, SIMILAR) ?? [];
  if (!others.length) return null;
  return html`<section class="similar" aria-labelledby="similar-title">
    <h2 id="similar-title">${t("movie.similar")}</h2>
    <ul role="list">
      ${others.map(
        (other) => html`<li key=${other.id}>
          <a class="card small" href=${`#/movies/${other.id}`}>
            <${Picture} movie=${other} />
            <span class="words"><span class="name">${other.title}</span><span class="quiet">${other.year}</span></span>
          </a>
        </li>`,
      )}
    </ul>
  </section>`;
}

function Withdrawn({ problem, path }) {
  const { withdrawal } = problem;
  return html`<article class="movie gone">
    <${Title}>${t("movie.withdrawn")}<//>
    <p>${t(`reason.${withdrawal.reason}`)} ${date(withdrawal.withdrawn_at)}${withdrawal.withdrawn_by ? t("movie.by", { name: withdrawal.withdrawn_by }) : ""}</p>
    ${withdrawal.key && html`<p class="quiet">${withdrawal.ingest ? html`<a href=${`#/ingests/${withdrawal.ingest}`}>${withdrawal.key}</a>` : withdrawal.key}</p>`}
    <p><a href="#/">${t("nav.find")}</a></p>
    <${History} path=${path} state=${withdrawal.withdrawn_at} />
  </article>`;
}
