// The state of the page is in its address: `#/`, `#/?q=alien&genre=Horror`, `#/movies/12`, `#/ingests?state=failed`.
// It is in the fragment, so that what people look for does not reach logs with the address of the page.
import { useEffect, useState } from "./hooks.js";

/** The id of the heading of a view. */
export const HEADING = "heading";

const listeners = new Set();

/** How far each entry of the history was scrolled. */
const scrolled = new Map();

let entry;
let path = [];
let pending;
let toFocus;
let before = "#/";
let present = location.hash || "#/";

history.scrollRestoration = "manual";
enter();

/** Returns the present route: the segments of its path, and its parameters. */
export function current() {
  const [route, query = ""] = location.hash.replace(/^#/, "").split(/\?(.*)/s);
  const segments = route.split("/").filter(Boolean);
  return { path: segments, params: new URLSearchParams(query) };
}

/** Returns the address of a route. */
export function href(route, params) {
  const query = params?.toString();
  return `#/${route}${query ? `?${query}` : ""}`;
}

/** Goes to an address: as a new entry of the history, or in place of the present one. `focus` is the id of what gets the focus. */
export function go(address, { replace = false, focus } = {}) {
  if (address === (location.hash || "#/")) return;
  if (replace) {
    history.replaceState(history.state, "", address);
    notify();
  } else {
    history.pushState(null, "", address);
    changed(focus);
  }
}

/** Returns the address of the view before this one. */
export function previous() {
  return before;
}

/** Returns the present route, in each of its states. */
export function useRoute() {
  const [route, setRoute] = useState(current);
  useEffect(() => {
    const listener = () => setRoute(current());
    listeners.add(listener);
    listener();
    return () => listeners.delete(listener);
  }, []);
  return route;
}

/** Returns the id of the element that shall get the focus, because another view was entered; once. */
export function takeFocus() {
  const taken = toFocus;
  toFocus = undefined;
  return taken;
}

/** Returns how far the present entry was scrolled, if it is one that was left before; once. */
export function takeScroll() {
  const top = pending;
  pending = undefined;
  return top;
}

/** Takes up the present entry of the history. Returns whether it is of the view that was shown before. */
function enter() {
  const isNew = history.state?.entry === undefined;
  if (isNew) history.replaceState({ entry: `${Date.now()}-${Math.random()}` }, "");
  entry = history.state.entry;
  const from = path;
  path = current().path;
  const isSameView = from.join("/") === path.join("/");
  pending = isNew ? (isSameView ? undefined : 0) : scrolled.get(entry);
  return isSameView;
}

function changed(focus) {
  [before, present] = [present, location.hash || "#/"];
  const isSameView = enter();
  toFocus = isSameView ? undefined : (focus ?? HEADING);
  notify();
}

function notify() {
  for (const listener of listeners) listener();
}

addEventListener("popstate", () => changed());
addEventListener("scroll", () => pending === undefined && scrolled.set(entry, scrollY), { passive: true });
