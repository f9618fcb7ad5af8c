// Who is signed in, and signing in.
import { html, Loading, Title, useState } from "./ui.js";
import { signIn, signInWithToken, signOut } from "./api.js";
import { go, previous } from "./route.js";
import { t } from "./messages.js";

/** The view at `#/account`. */
export default function Account({ session }) {
  if (!session.known) return html`<${Loading} />`;
  if (!session.name) return html`<div class="narrow"><${Title}>${t("account.signIn")}<//><${SignIn} /></div>`;
  const roles = session.roles.map((role) => t(`role.${role}`)).join(" ");
  return html`<div class="narrow">
    <${Title}>${session.name}<//>
    <p>${roles || t("account.noRole")}</p>
    ${session.prefixes?.length > 0 && html`<p>${t("account.prefixes", { prefixes: session.prefixes.join(", ") })}</p>`}
    <p><button type="button" onClick=${signOut}>${t("account.signOut")}</button></p>
  </div>`;
}

function SignIn() {
  const [problem, setProblem] = useState();
  const [busy, setBusy] = useState(false);
  const submit = (run) => async (event) => {
    event.preventDefault();
    setBusy(true);
    setProblem(undefined);
    try {
      const fields = new FormData(event.target);
      await run(fields);
      // Back to what the role is needed for.
      go(previous());
    } catch (error) {
      setProblem(error);
    }
    setBusy(false);
  };
  return html`<form onSubmit=${submit((fields) => signIn(fields.get("name"), fields.get("password")))}>
      <div class="field">
        <label for="name">${t("account.name")}</label>
        <input id="name" name="name" autocomplete="username" required />
      </div>
      <div class="field">
        <label for="password">${t("account.password")}</label>
        <input id="password" name="password" type="password" autocomplete="current-password" required />
      </div>
      ${problem && html`<p class="note bad" role="alert">${problem.detail ?? problem.title}</p>`}
      <p><button class="main" disabled=${busy}>${t("account.signIn")}</button></p>
    </form>
    <details>
      <summary>${t("account.withToken")}</summary>
      <form onSubmit=${submit((fields) => signInWithToken(fields.get("token").trim()))}>
        <div class="field">
          <label for="token">${t("account.token")}</label>
          <input id="token" name="token" type="password" autocomplete="off" aria-describedby="about-token" required />
          <p class="quiet" id="about-token">${t("account.token.what")}</p>
        </div>
        <p><button disabled=${busy}>${t("account.useToken")}</button></p>
      </form>
    </details>`;
}
