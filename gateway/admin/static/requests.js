// Recent requests: live, or as searched. A story opens to its attempts: where, why, how long, how it ended.

import { byId, h, reconcile, s, setText } from "./dom.js";
import { clock, milliseconds, words } from "./format.js";

const SHOWN = 60;
const GOOD = new Set(["ok", "beaten"]);
const keyOf = (story) => `${story.correlation_id} ${story.timestamp}`;

function tone(story) {
  if (story.outcome === "client_disconnected") return "";
  if (story.outcome !== "ok") return "bad";
  return story.attempts.some((attempt) => !GOOD.has(attempt.outcome)) ? "warn" : "good";
}

function outcome(story) {
  if (story.outcome !== "ok") return words(story.outcome);
  const lost = story.attempts.filter((attempt) => !GOOD.has(attempt.outcome)).length;
  return lost ? `ok, ${lost} hidden` : "ok";
}

function attemptRow(attempt, at, story) {
  const whole = Math.max(story.duration_ms, 0.001);
  const bar = s("rect", { x: Math.min(99, (attempt.at_ms / whole) * 100), width: Math.max(1, Math.min(100, (attempt.ms / whole) * 100)), height: 10 });
  const good = GOOD.has(attempt.outcome);
  return h(
    "li",
    { class: "attempt" },
    h("span", { class: "number" }, String(at + 1)),
    h("b", {}, attempt.backend),
    h("span", {}, h("span", { class: `badge ${good ? "good" : "bad"}` }, words(attempt.outcome)), attempt.status && !good ? h("span", { class: "quiet" }, ` ${attempt.status}`) : null),
    h("span", { class: "because quiet" }, `${attempt.why}: ${attempt.because}`),
    h("span", { class: `wait ${good ? "" : "failed"}`, title: `from ${milliseconds(attempt.at_ms)}` }, s("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" }, bar)),
    h("span", { class: "number" }, milliseconds(attempt.ms)),
  );
}

function told(story) {
  const fact = (name, value) => (value ? h("div", {}, h("dt", {}, name), h("dd", { class: "mono" }, value)) : null);
  return h(
    "div",
    { class: "story" },
    h("dl", {}, fact("correlation ID", story.correlation_id), fact("path", `${story.method} ${story.path}`), fact("status", String(story.status)), fact("route", story.route), fact("model", story.model), fact("took", milliseconds(story.duration_ms))),
    story.attempts.length
      ? h("ol", { class: "attempts", "aria-label": "Attempts" }, ...story.attempts.map((attempt, at) => attemptRow(attempt, at, story)))
      : h("p", { class: "quiet" }, "No backend was asked: it was answered or refused before."),
  );
}

function make(story) {
  const last = story.attempts[story.attempts.length - 1];
  const way = story.attempts.map((attempt) => attempt.backend).join(" → ");
  const details = h(
    "details",
    {},
    h(
      "summary",
      {},
      h("span", { class: "quiet" }, clock(story.timestamp)),
      h("span", {}, h("span", { class: `badge ${tone(story)}` }, outcome(story))),
      h("span", { class: "model" }, story.model ?? "–"),
      h("span", { class: "route-of" }, way || "no backend asked", last?.fallback ? h("span", { class: "warn" }, " (fallback)") : null),
      h("span", { class: "number" }, milliseconds(story.duration_ms)),
      h("span", { class: "mono quiet path" }, story.correlation_id),
    ),
  );
  details.addEventListener("toggle", () => { if (details.open && details.children.length === 1) details.append(told(story)); });
  return h("li", {}, details);
}

export class Requests {
  constructor() {
    this.list = byId("requests");
    this.stories = [];
    this.held = false;
    this.asked = 0;
    this.timer = 0;
    const form = byId("search");
    form.addEventListener("submit", (event) => { event.preventDefault(); this.refresh(); });
    form.addEventListener("input", () => { clearTimeout(this.timer); this.timer = setTimeout(() => this.refresh(), 200); });
    byId("hold").addEventListener("click", () => {
      this.held = !this.held;
      byId("hold").setAttribute("aria-pressed", String(this.held));
      if (!this.held) this.refresh();
      else this.note();
    });
  }

  get text() { return byId("query").value.trim().toLowerCase(); }

  get outcome() { return byId("search").elements.outcome.value; }

  lookFor(text, which) {
    byId("query").value = text;
    byId("search").elements.outcome.value = which;
    this.refresh();
    byId("query").focus();
  }

  async refresh() {
    const asked = (this.asked += 1);
    const query = new URLSearchParams({ q: this.text, outcome: this.outcome, limit: String(SHOWN) });
    const answer = await fetch(`/admin/requests?${query}`, { credentials: "same-origin" }).catch(() => null);
    if (!answer?.ok || asked !== this.asked) return;
    this.stories = (await answer.json()).requests;
    this.draw();
  }

  // New ones from the events; with a search it is the server that knows which belong.
  add(stories) {
    if (this.held || !stories.length) return;
    if (this.text || this.outcome !== "all") {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.refresh(), 300);
      return;
    }
    const known = new Set(this.stories.map(keyOf));
    const open = [...this.list.querySelectorAll("details[open]")].map((each) => each.parentElement.dataset.key);
    const kept = [...stories.filter((story) => !known.has(keyOf(story))), ...this.stories];
    this.stories = kept.filter((story, at) => at < SHOWN || open.includes(keyOf(story)));
    this.draw();
  }

  draw() {
    reconcile(this.list, this.stories, keyOf, make);
    this.note();
  }

  note() {
    const searched = this.text || this.outcome !== "all";
    const none = searched ? "None of the requests kept matches." : "No requests yet.";
    setText(byId("requests-note"), this.held ? "Held still: new requests are not shown." : this.stories.length ? "" : none);
  }
}
