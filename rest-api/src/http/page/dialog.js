// A question that must be answered before anything is changed.
import { html, useEffect, useRef, useState } from "./ui.js";
import { t } from "./messages.js";

/** Asks before `onConfirm`, which may take a while and fail. `children` says what would happen. */
export function Dialog({ title, action, danger, onConfirm, onClose, children, disabled }) {
  const dialog = useRef();
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState();
  useEffect(() => {
    const before = document.activeElement;
    dialog.current.showModal();
    return () => before?.focus?.();
  }, []);
  const confirm = async () => {
    setBusy(true);
    setProblem(undefined);
    try {
      await onConfirm();
    } catch (error) {
      setProblem(error);
      setBusy(false);
    }
  };
  return html`<dialog ref=${dialog} aria-labelledby="dialog-title" onClose=${onClose}>
    <h2 id="dialog-title">${title}</h2>
    <div class="dialog-body">${children}</div>
    ${problem && html`<p class="note bad" role="alert">${problem.detail ?? problem.title}</p>`}
    <p class="buttons">
      <button type="button" class=${danger ? "danger" : "main"} disabled=${busy || disabled} onClick=${confirm}>${action}</button>
      <button type="button" onClick=${() => dialog.current.close()}>${t("cancel")}</button>
    </p>
  </dialog>`;
}
