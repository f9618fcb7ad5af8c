// Files: checking and putting them, and what became of those that were put.
import { html, Title } from "./ui.js";
import { Check } from "./check.js";
import { Ingests } from "./ingests.js";
import { t } from "./messages.js";

/** What the keys begin with that the operator lets be put. */
const UPLOAD_PREFIX = document.getElementById("app").dataset.uploadPrefix;

/** The view at `#/files`. */
export default function Files({ params, may, session }) {
  return html`<${Title}>${t("nav.files")}<//>
    <${Check} mayAdd=${may("producer", "editor", "service")} prefix=${session.prefixes?.[0] ?? UPLOAD_PREFIX} />
    <${Ingests} params=${params} />`;
}
