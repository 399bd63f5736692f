// What an operator does: asked once more in a dialog, with a reason for the log, and with the key where one is wanted.

import { byId, h, setText } from "./dom.js";

const TELL = {
  drain: ["Drain", "It gets no new requests; those under way there finish."],
  eject: ["Eject", "It gets no new requests, and those under way there are broken off at once and go elsewhere. A stream that can't go on elsewhere ends with an error."],
  restore: ["Restore", "It is back in service, with its circuit closed."],
  "breaker/open": ["Open the circuit of", "It gets no requests until the circuit is closed here or the backend is restored."],
  "breaker/reset": ["Close the circuit of", "What was counted against it is forgotten, and it gets requests again at once."],
};
let key = "";
let hiding = 0;

export function toast(text) {
  const box = byId("toast");
  setText(box, text);
  box.hidden = false;
  clearTimeout(hiding);
  hiding = setTimeout(() => { box.hidden = true; }, 6000);
}

async function send(path, body) {
  const headers = { "Content-Type": "application/json" };
  if (key) headers.Authorization = `Bearer ${key}`;
  const answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(body), credentials: "same-origin" });
  const told = await answer.json().catch(() => ({}));
  if (answer.status === 401) throw Object.assign(new Error(told.error?.message ?? "The operators' key is needed."), { keyWanted: true });
  if (!answer.ok) throw new Error(told.message ?? told.error?.message ?? `HTTP ${answer.status}`);
  return told;
}

// Shows the dialog and runs `work(reason)` when confirmed; stays open, with the error, when that fails.
function ask({ title, body, go, reason, work }) {
  const dialog = byId("dialog");
  const button = byId("dialog-go");
  setText(byId("dialog-title"), title);
  byId("dialog-body").replaceChildren(...body);
  setText(byId("dialog-error"), "");
  byId("dialog-reason").value = "";
  byId("dialog-reason-row").hidden = !reason;
  byId("dialog-key-row").hidden = true;
  setText(button, go ?? "Close");
  byId("dialog-cancel").hidden = !go;
  button.disabled = false;
  const opener = document.activeElement;
  return new Promise((resolve) => {
    const form = dialog.querySelector("form");
    const submit = async (event) => {
      event.preventDefault();
      if (!go) return dialog.close();
      button.disabled = true;
      key = byId("dialog-key").value || key;
      try {
        const done = await work(byId("dialog-reason").value);
        if (done !== false) dialog.close();
      } catch (error) {
        setText(byId("dialog-error"), error.message);
        if (error.keyWanted) {
          key = "";
          byId("dialog-key-row").hidden = false;
          byId("dialog-key").focus();
        }
      }
      button.disabled = false;
      return undefined;
    };
    const cancel = () => dialog.close();
    const closed = () => {
      form.removeEventListener("submit", submit);
      byId("dialog-cancel").removeEventListener("click", cancel);
      byId("dialog-key").value = "";
      // The act may have taken its own button away: focus goes to its neighbour.
      if (opener?.hidden) opener.closest("tr")?.querySelector("button:not([hidden])")?.focus();
      resolve();
    };
    form.addEventListener("submit", submit);
    byId("dialog-cancel").addEventListener("click", cancel);
    dialog.addEventListener("close", closed, { once: true });
    dialog.showModal();
  });
}

export function act(verb, backend) {
  const [what, meaning] = TELL[verb];
  return ask({
    title: `${what} ${backend}?`,
    body: [h("p", {}, meaning)],
    go: what.split(" ")[0],
    reason: true,
    work: async (reason) => {
      const done = await send(`/admin/backends/${encodeURIComponent(backend)}/${verb}`, { reason });
      toast(`${what} ${backend}: ${done.changed ? "done" : "nothing to change"}.`);
    },
  });
}

const listOf = (title, lines, tone) => (lines.length ? [h("div", {}, h("p", { class: tone ?? "" }, title), h("ol", { class: "diff" }, ...lines.map((line) => h("li", {}, line))))] : []);

function shown(preview) {
  if (preview.problems.length) return listOf("The file has errors and can't be taken:", preview.problems, "bad");
  return [
    ...(preview.changes.length ? listOf("These settings change:", preview.changes) : [h("p", {}, "The file says what is served now: nothing would change.")]),
    ...listOf("Of these, some take effect only after a restart:", preview.restart, "warn"),
    ...listOf("Warnings:", preview.warnings, "warn"),
  ];
}

// First what would change, then, if wanted, just that: the file must still be as it was shown.
export async function confirmReload() {
  let preview = null;
  const look = async () => { preview = await send("/admin/reload?dry_run=true", {}); };
  try {
    await look();
  } catch (error) {
    if (!error.keyWanted) throw error;
    await ask({ title: "Reload configuration", body: [h("p", {}, error.message)], go: "Look", reason: false, work: look });
  }
  if (preview === null) return;
  const can = !preview.problems.length && preview.changes.length;
  await ask({
    title: "Reload configuration",
    body: shown(preview),
    go: can ? "Apply" : null,
    reason: Boolean(can),
    work: async (reason) => {
      await send("/admin/reload", { revision: preview.revision, reason });
      toast("The new configuration is served.");
    },
  });
}
