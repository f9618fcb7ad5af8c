// A form for a movie, made from the schema of files. What somebody else has changed meanwhile is shown to choose from.
import { html, Loading, ProblemNote, useEffect, useLoaded, useRef, useState } from "./ui.js";
import { ask } from "./api.js";
import { t } from "./messages.js";

/** What tells movies apart cannot be changed. */
const IDENTITY = ["title", "year", "href"];

/** Text that may be longer gets a larger field. */
const LONG = 4096;

/** Returns the properties of a movie that can be changed: name, kind, and the schema of each. */
function propertiesOf(schema) {
  const { properties, required } = schema.$defs.Movie;
  return Object.entries(properties)
    .filter(([name]) => !IDENTITY.includes(name))
    .map(([name, rules]) => ({ name, rules, kind: kindOf(rules), required: required.includes(name) }));
}

function kindOf({ type, maxLength }) {
  const types = [type].flat();
  if (types.includes("array")) return "list";
  if (types.includes("integer")) return "number";
  return maxLength > LONG ? "text" : "line";
}

const toText = (kind, value) =>
  value === undefined || value === null ? "" : kind === "list" ? value.join("\n") : String(value);

function fromText(kind, text) {
  if (kind === "list")
    return text
      .split("\n")
      .map((line) => line.trim())
      .filter(Boolean);
  if (text.trim() === "") return null;
  if (kind === "number") return Number(text);
  return text;
}

/** The form. `loaded` is the movie as it was read, with its entity tag. */
export function Edit({ path, loaded, onSaved, onCancel }) {
  const schema = useLoaded((signal) => ask("/schema/movies.json", { signal, anonymous: true }), []);
  if (schema.problem) return html`<${ProblemNote} problem=${schema.problem} retry=${schema.reload} />`;
  if (!schema.value) return html`<${Loading} />`;
  return html`<${Form} properties=${propertiesOf(schema.value.value)} path=${path} loaded=${loaded} onSaved=${onSaved} onCancel=${onCancel} />`;
}

function Form({ properties, path, loaded, onSaved, onCancel }) {
  const [base, setBase] = useState(loaded);
  const texts = (movie) => Object.fromEntries(properties.map(({ name, kind }) => [name, toText(kind, movie[name])]));
  const [typed, setTyped] = useState(() => texts(loaded.value));
  const [hold, setHold] = useState(false);
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState();
  const [theirs, setTheirs] = useState();
  const form = useRef();
  useEffect(() => form.current.querySelector("textarea, input")?.focus(), []);

  const changed = properties.filter(({ name, kind }) => typed[name] !== toText(kind, base.value[name]));
  const save = async (event) => {
    event?.preventDefault();
    setBusy(true);
    setProblem(undefined);
    const patch = Object.fromEntries(changed.map(({ name, kind }) => [name, fromText(kind, typed[name])]));
    const headers = { "content-type": "application/merge-patch+json", "if-match": base.etag };
    try {
      await ask(`${path}${hold ? "?hold=true" : ""}`, { method: "PATCH", headers, body: JSON.stringify(patch) });
      onSaved();
    } catch (error) {
      if (error.status === 412) await compare();
      else setProblem(error);
      setBusy(false);
    }
  };
  /** Reads the movie as it is now, and shows what differs. */
  const compare = async () => {
    try {
      setTheirs(await ask(path));
    } catch (error) {
      setProblem(error);
    }
  };
  /** Goes on from their version, with these texts. */
  const choose = (chosen) => {
    setBase(theirs);
    setTyped(chosen);
    setTheirs(undefined);
  };
  if (theirs)
    return html`<${Conflict} properties=${properties} base=${base.value} mine=${typed} theirs=${theirs.value} onChoose=${choose} onCancel=${onCancel} />`;

  const faults = problem?.violations ?? [];
  const faultOf = (name) => faults.filter(({ pointer }) => pointer === `/${name}` || pointer.startsWith(`/${name}/`));
  return html`<form ref=${form} class="edit" onSubmit=${save}>
    <p class="quiet">${t("edit.identity")}</p>
    ${properties.map(({ name, rules, kind }) => {
      const own = faultOf(name);
      const attributes = {
        id: `edit-${name}`,
        value: typed[name],
        "aria-describedby": `about-${name}`,
        "aria-invalid": own.length ? "true" : undefined,
        onInput: (event) => setTyped({ ...typed, [name]: event.target.value }),
      };
      return html`<div class="field" key=${name}>
        <label for=${`edit-${name}`}>${t(`edit.${name}`) ?? name}</label>
        ${
          kind === "list" || kind === "text"
            ? html`<textarea ...${attributes} rows=${kind === "text" ? 6 : Math.min(Math.max(typed[name].split("\n").length + 1, 3), 10)}></textarea>`
            : kind === "number"
              ? html`<input type="number" min=${rules.minimum} max=${rules.maximum} ...${attributes} />`
              : html`<input maxlength=${rules.maxLength} ...${attributes} />`
        }
        <p class="quiet" id=${`about-${name}`}>${t(`edit.${name}.what`) ?? rules.description}</p>
        ${own.map((fault) => html`<p class="fault" role="alert">${t("violation", fault)}</p>`)}
      </div>`;
    })}
    <p><label><input type="checkbox" checked=${hold} onChange=${(event) => setHold(event.target.checked)} /> ${t("edit.hold")}</label></p>
    ${problem && html`<${ProblemNote} problem=${problem} />`}
    <p class="buttons">
      <button class="main" disabled=${busy || !changed.length}>${t("edit.save")}</button>
      <button type="button" onClick=${onCancel}>${t("cancel")}</button>
    </p>
  </form>`;
}

/** Shows where both have changed the movie. Properties that one side alone has changed are taken as they are. */
function Conflict({ properties, base, mine, theirs, onChoose, onCancel }) {
  const rows = properties.map(({ name, kind }) => {
    const [before, now] = [toText(kind, base[name]), toText(kind, theirs[name])];
    return { name, mine: mine[name], theirs: now, isMine: mine[name] !== before, isTheirs: now !== before };
  });
  const both = rows.filter((row) => row.mine !== row.theirs && (row.isMine || row.isTheirs));
  const [picked, setPicked] = useState(() =>
    Object.fromEntries(both.map((row) => [row.name, row.isMine ? "mine" : "theirs"])),
  );
  const title = useRef();
  useEffect(() => title.current.focus(), []);
  const go = () =>
    onChoose(Object.fromEntries(rows.map((row) => [row.name, picked[row.name] === "mine" ? row.mine : row.theirs])));
  return html`<section class="conflict" aria-labelledby="conflict-title">
    <h2 id="conflict-title" tabindex="-1" ref=${title}>${t("conflict.title")}</h2>
    <p>${t("conflict.what")}</p>
    ${both.map(
      (row) => html`<fieldset key=${row.name}>
        <legend>${t(`edit.${row.name}`)}</legend>
        ${["mine", "theirs"].map(
          (side) => html`<label class="choice">
            <input type="radio" name=${`conflict-${row.name}`} checked=${picked[row.name] === side} onChange=${() => setPicked({ ...picked, [row.name]: side })} />
            <span><strong>${t(`conflict.${side}`)}</strong><br /><span class="value">${row[side] || t("conflict.nothing")}</span></span>
          </label>`,
        )}
      </fieldset>`,
    )}
    <p class="buttons">
      <button type="button" class="main" onClick=${go}>${t("conflict.go")}</button>
      <button type="button" onClick=${onCancel}>${t("cancel")}</button>
    </p>
  </section>`;
}
