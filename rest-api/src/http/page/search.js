// A text field that suggests titles and names while one types.
import { html, useEffect, useRef, useState } from "./ui.js";
import { ask } from "./api.js";
import { t } from "./messages.js";

/** How long to wait for the next letter, in milliseconds. */
const PAUSE = 120;

/**
 * A field with suggestions (a combobox, as WAI-ARIA describes it). `onText` gets each text that is typed, `onPick` the
 * suggestion that is chosen, `onEnter` the text when Enter is pressed.
 */
export function Search({ id, label, value, kinds, onText, onPick, onEnter, big, placeholder }) {
  const [text, setText] = useState(value);
  const [suggestions, setSuggestions] = useState([]);
  const [active, setActive] = useState(-1);
  const [open, setOpen] = useState(false);
  const input = useRef();
  const asking = useRef();

  useEffect(() => {
    if (document.activeElement !== input.current || value === "") setText(value);
  }, [value]);
  useEffect(() => () => asking.current?.abort(), []);

  const suggest = async (typed) => {
    asking.current?.abort();
    const controller = new AbortController();
    asking.current = controller;
    await new Promise((resolve) => setTimeout(resolve, PAUSE));
    if (controller.signal.aborted) return;
    onText?.(typed);
    if (!typed.trim()) return setSuggestions([]);
    try {
      const query = new URLSearchParams({ q: typed });
      const { value: found } = await ask(`/suggest?${query}`, { signal: controller.signal, anonymous: true });
      setSuggestions(found.filter(({ kind }) => !kinds || kinds.includes(kind)).slice(0, 8));
      setActive(-1);
    } catch {
      // The list that is asked for at the same time says what is wrong.
      if (!controller.signal.aborted) setSuggestions([]);
    }
  };
  const close = () => {
    asking.current?.abort();
    setOpen(false);
    setActive(-1);
  };
  const pick = (suggestion) => {
    close();
    setText(onPick(suggestion) ?? "");
  };
  const onKeyDown = (event) => {
    const shown = open ? suggestions.length : 0;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (!shown) return setOpen(true);
      const step = event.key === "ArrowDown" ? 1 : -1;
      setActive((now) => ((now + step + 1 + shown + 1) % (shown + 1)) - 1);
    } else if (event.key === "Enter") {
      event.preventDefault();
      if (shown && active >= 0) return pick(suggestions[active]);
      close();
      const kept = onEnter?.(text);
      if (kept !== undefined) setText(kept);
    } else if (event.key === "Escape" && open) {
      event.preventDefault();
      close();
    }
  };
  const shows = open && suggestions.length > 0;
  return html`<div class=${`search ${big ? "big" : ""}`}>
    <label for=${id} class=${big ? "hidden" : ""}>${label}</label>
    <input
      id=${id}
      ref=${input}
      type="search"
      role="combobox"
      autocomplete="off"
      spellcheck="false"
      maxlength="256"
      placeholder=${placeholder}
      aria-expanded=${String(shows)}
      aria-controls=${`${id}-list`}
      aria-autocomplete="list"
      aria-activedescendant=${shows && active >= 0 ? `${id}-${active}` : undefined}
      value=${text}
      onInput=${(event) => {
        setText(event.target.value);
        setOpen(true);
        suggest(event.target.value);
      }}
      onKeyDown=${onKeyDown}
      onBlur=${() => setOpen(false)}
    />
    <ul id=${`${id}-list`} role="listbox" aria-label=${t("search.suggestions")} hidden=${!shows}>
      ${suggestions.map(
        (suggestion, index) => html`<li
          id=${`${id}-${index}`}
          role="option"
          aria-selected=${String(index === active)}
          onMouseDown=${(event) => {
            event.preventDefault();
            pick(suggestion);
          }}
        >
          <span>${suggestion.text}</span>
          <span class="quiet">${t(`search.${suggestion.kind}`, { n: suggestion.count })}</span>
        </li>`,
      )}
    </ul>
  </div>`;
}
