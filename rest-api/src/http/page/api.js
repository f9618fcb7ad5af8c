// Requests to the service, and who sends them. The access token is in memory alone; the refresh token is a cookie that no
// script can read.
import { useEffect, useState } from "./hooks.js";
import { t } from "./messages.js";

/** Says that this browser may have a session, so that others need not ask. It is no secret. */
const HINT = "movies-r-us.session";

let access;
let session = { known: !hasHint() };
let restoring;
const listeners = new Set();

/** An answer that is no success: the problem of the service (RFC 9457), or that there is no answer. */
class Problem extends Error {
  constructor(members, response) {
    super(members.detail);
    Object.assign(this, members);
    this.status = response?.status;
    this.retryAfter = Number(response?.headers.get("retry-after")) || undefined;
  }
}

/** Sends a request. Returns the value of its JSON, its entity tag, and the address of the next page. */
export async function ask(path, options = {}) {
  const response = await request(path, options);
  const text = response.status === 204 ? "" : await body(response);
  const link = /^<([^>]*)>; rel="next"/.exec(response.headers.get("link") ?? "");
  return { value: text && JSON.parse(text), etag: response.headers.get("etag"), next: link?.[1] };
}

/** Sends a request. Returns the text of its answer. */
export async function askText(path, options = {}) {
  return body(await request(path, options));
}

async function body(response) {
  try {
    return await response.text();
  } catch (error) {
    throw unreachable(error);
  }
}

/** Sends a request. Returns its answer as a stream. */
export function open(path, options = {}) {
  return request(path, options);
}

/** Sends a request with the token, if there is one. `anonymous` leaves it out, so that answers are the same for all. */
async function request(path, { anonymous = false, ...options }) {
  if (!anonymous && !session.known) await restore();
  let response = await send(path, options, !anonymous);
  if (response.status === 401 && !anonymous && access) {
    // The token has ended. What everybody may read needs none.
    if (hasHint()) await refresh();
    else forget();
    response = await send(path, options, true);
  }
  if (response.ok) return response;
  throw await problemOf(response);
}

async function problemOf(response) {
  const isProblem = response.headers.get("content-type")?.startsWith("application/problem+json");
  const fallback = { title: t("problem.status", { status: response.status }), code: `status_${response.status}` };
  return new Problem(isProblem ? await response.json() : fallback, response);
}

async function send(path, { method = "GET", headers = {}, body: sent, signal }, withToken) {
  const all = new Headers(headers);
  if (withToken && access) all.set("authorization", `Bearer ${access}`);
  try {
    return await fetch(path, { method, headers: all, body: sent, signal, credentials: "same-origin" });
  } catch (error) {
    throw unreachable(error);
  }
}

function unreachable(error) {
  if (error.name === "AbortError") return error;
  return new Problem({
    code: "unreachable",
    title: t("problem.unreachable"),
    detail: t("problem.unreachable.detail"),
  });
}

/** Returns the options of a request with a JSON body. */
export function json(method, value, headers = {}) {
  return { method, headers: { "content-type": "application/json", ...headers }, body: JSON.stringify(value) };
}

/** Signs in with name and password. */
export async function signIn(name, password) {
  const answer = await send("/auth/login", json("POST", { name, password, cookie: true }), false);
  if (!answer.ok) throw await problemOf(answer);
  access = (await answer.json()).access_token;
  localStorage.setItem(HINT, "1");
  await readMe();
}

/** Signs in with a token that somebody else has issued. It is forgotten with the page. */
export async function signInWithToken(token) {
  const before = access;
  access = token;
  try {
    await readMe();
  } catch (problem) {
    access = before;
    throw problem;
  }
}

/** Ends the session. */
export async function signOut() {
  if (hasHint()) await send("/auth/logout", { method: "POST" }, true);
  forget();
}

/** Takes up the session that this browser has, if it has one. */
export function restore() {
  restoring ??= (async () => {
    if (hasHint() && (await refresh())) await readMe().catch(() => {});
    if (!session.known) set({ known: true });
  })();
  return restoring;
}

/** Gets a new access token. One page of the browser at a time: each refresh token is good for one use. */
async function refresh() {
  const run = async () => {
    const answer = await send("/auth/refresh", { method: "POST" }, false);
    if (answer.ok) access = (await answer.json()).access_token;
    else if (answer.status < 500) forget();
    return answer.ok;
  };
  try {
    return navigator.locks ? await navigator.locks.request(HINT, run) : await run();
  } catch {
    return false;
  }
}

async function readMe() {
  const answer = await send("/auth/me", {}, true);
  if (!answer.ok) throw await problemOf(answer);
  const me = await answer.json();
  set({ known: true, name: me.name, roles: me.roles, prefixes: me.prefixes });
}

function forget() {
  access = undefined;
  localStorage.removeItem(HINT);
  set({ known: true });
}

function hasHint() {
  return localStorage.getItem(HINT) !== null;
}

function set(next) {
  session = next;
  for (const listener of listeners) listener(session);
}

/** Calls `listener` whenever somebody else is signed in, or nobody. */
export function onSession(listener) {
  let name = session.name;
  listeners.add((next) => {
    if (next.name === name) return;
    name = next.name;
    listener();
  });
}

/** Returns who is signed in: `name` and `roles` if somebody is. */
export function useSession() {
  const [value, setValue] = useState(session);
  useEffect(() => {
    listeners.add(setValue);
    setValue(session);
    return () => listeners.delete(setValue);
  }, []);
  return value;
}

/** Returns whether somebody may do what one of these roles may. */
export function may(who, ...roles) {
  return roles.some((role) => who.roles?.includes(role));
}
