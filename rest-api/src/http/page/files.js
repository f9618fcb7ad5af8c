// Files: checking them before they are put, and what became of those that were.
import { html, Title } from "./ui.js";
import { Check } from "./check.js";
import { Ingests } from "./ingests.js";
import { t } from "./messages.js";

/** The view at `#/files`. */
export default function Files({ params, may }) {
  return html`<${Title}>${t("nav.files")}<//>
    <${Check} mayAdd=${may("producer", "editor", "service")} />
    <${Ingests} params=${params} />`;
}
