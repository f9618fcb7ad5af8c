// The frame of the page: where one can go, who one is, and the view of the present address.
import { html, Loading, ProblemNote, render, Title, useEffect, useLayoutEffect, useRef, useState } from "./ui.js";
import { may, restore, useSession } from "./api.js";
import { go, takeScroll, useRoute } from "./route.js";
import { Find } from "./find.js";
import { t } from "./messages.js";

/** The views beside the first one, and what loads each. */
const VIEWS = {
  movies: () => import("./movie.js"),
  files: () => import("./files.js"),
  ingests: () => import("./ingest.js"),
  operations: () => import("./operations.js"),
  account: () => import("./account.js"),
};

function App() {
  const route = useRoute();
  const session = useSession();
  const main = useRef();
  useEffect(() => void restore(), []);
  useEffect(() => {
    const onKey = (event) => {
      const isTyping = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName);
      if (event.key !== "/" || isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      const field = document.getElementById("q");
      if (field) field.focus();
      else go("#/", { focus: "q" });
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, []);
  const [name = "find"] = route.path;
  const link = (view, address) =>
    html`<li><a href=${address} aria-current=${name === view ? "page" : undefined}>${t(`nav.${view}`)}</a></li>`;
  return html`<button type="button" class="skip" onClick=${() => main.current.focus()}>${t("skip")}</button>
    <header>
      <a class="brand" href="#/">movies-r-us</a>
      <nav aria-label=${t("nav")}>
        <ul>
          ${link("find", "#/")} ${link("files", "#/files")} ${link("operations", "#/operations")}
        </ul>
      </nav>
      <a class="who" href="#/account" aria-current=${name === "account" ? "page" : undefined}>
        ${session.name ? session.name : t("account.signIn")}
      </a>
    </header>
    <main ref=${main} tabindex="-1" id="main">
      ${name === "find" ? html`<${Find} params=${route.params} />` : html`<${Later} key=${name} name=${name} route=${route} session=${session} />`}
    </main>
    <footer>
      <ul class="inline">
        <li><a href="docs">${t("footer.docs")}</a></li>
        <li><a href="openapi.json">OpenAPI</a></li>
        <li><a href="schema/movies.json">${t("footer.schema")}</a></li>
        <li class="quiet">${t("footer.keys")}</li>
        <li class="quiet">${t("footer.made")}</li>
      </ul>
    </footer>`;
}

/** A view that is loaded when it is first shown. */
function Later({ name, route, session }) {
  const [{ view, problem }, setLoaded] = useState({});
  const load = () => {
    setLoaded({});
    VIEWS[name]?.().then(
      (module) => setLoaded({ view: module.default }),
      () => setLoaded({ problem: { code: "unreachable", detail: t("problem.unreachable.detail") } }),
    );
  };
  useEffect(load, [name]);
  useLayoutEffect(() => {
    document.title = t("title", { view: t(`nav.${VIEWS[name] ? name : "missing"}`) });
    const top = takeScroll();
    if (view && top !== undefined) scrollTo(0, top);
  }, [name, view]);
  if (!VIEWS[name]) return html`<${Title}>${t("nav.missing")}<//><p><a href="#/">${t("nav.find")}</a></p>`;
  if (problem) return html`<${ProblemNote} problem=${problem} retry=${load} />`;
  return view
    ? html`<${view} key=${route.path[1]} id=${route.path[1]} params=${route.params} session=${session} may=${(...roles) => may(session, ...roles)} />`
    : html`<${Loading} />`;
}

render(html`<${App} />`, document.getElementById("app"));
