// The page: takes events and draws them. Each part updates in place, so that focus and open stories stay.

import { confirmReload, act, toast } from "./acts.js";
import { Chart } from "./charts.js";
import { byId, h, reconcile, s, setText } from "./dom.js";
import { bytes, clock, duration, milliseconds, percent, rate, seconds, words } from "./format.js";
import { Requests } from "./requests.js";

const KEPT = 300;
const SILENT = 5000;
let samples = [];
let lastEvent = 0;
const requests = new Requests();

// A client that left is no failure.
const failed = (sample) => Object.entries(sample.errors).reduce((sum, [kind, value]) => sum + (kind === "client_disconnected" ? 0 : value), 0);
const lines = (name, ...keys) =>
  keys.map((key, at) => ({ name: key, class: at ? "c-p95" : "c-p50", value: (sample) => sample[name][key] }));
const charts = [
  new Chart(byId("chart-requests"), {
    series: [
      { name: "failed", class: "c-bad", stacked: true, value: failed },
      { name: "answered", class: "c-ok", stacked: true, value: (sample) => sample.ok },
    ],
    format: rate,
    least: 1,
  }),
  new Chart(byId("chart-ttft"), { series: lines("ttft", "p50", "p95"), format: seconds, least: 0.01 }),
  new Chart(byId("chart-itl"), { series: lines("itl", "p50", "p95"), format: seconds, least: 0.01 }),
  new Chart(byId("chart-load"), {
    series: [
      { name: "in flight", class: "c-p50", value: (sample) => sample.in_flight },
      { name: "queued", class: "c-p95", value: (sample) => sample.queued },
    ],
    format: rate,
    least: 5,
  }),
];

function badge(element, text, tone) {
  setText(element, text);
  element.className = `badge ${element.classList.contains("big") ? "big " : ""}${tone}`;
}

function gauge(share) {
  const level = share >= 0.95 ? "full" : share >= 0.8 ? "high" : "";
  const bar = s("rect", { width: Math.min(100, Math.round(share * 1000) / 10), height: 10 });
  return h("span", { class: `gauge ${level}` }, s("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" }, bar));
}

function cell(row, label, ...children) {
  const found = [...row.children].find((each) => each.dataset.label === label);
  found.replaceChildren(h("div", {}, ...children.flat().filter((child) => child !== null && child !== undefined && child !== false)));
}

// -- top ----------------------------------------------------------------------------------------------------------------

const TONES = { healthy: "good", degraded: "warn", critical: "bad" };

function drawTop(state) {
  const overall = state.draining ? "draining" : state.health.overall_status;
  badge(byId("overall"), overall, TONES[overall] ?? "warn");
  setText(byId("version"), state.version);
  setText(byId("now-errors"), String(state.errors.errors_last_minute));
  byId("now-errors").className = state.errors.errors_last_minute ? "bad" : "";
  setText(byId("now-flight"), String(state.in_flight));
  setText(byId("now-queued"), String(state.queued));
  setText(byId("now-up"), duration(state.uptime_seconds));
  document.title = overall === "healthy" ? "Seawall" : `${overall}: Seawall`;
}

function drawProblems(state) {
  const found = Object.entries(state.health.checks)
    .filter(([, check]) => check.status !== "healthy")
    .map(([name, check]) => `${name}: ${check.message || check.status}`);
  for (const spike of state.errors.spikes) found.push(`spike of ${words(spike.error_type)}: ${spike.errors_last_minute} in the last minute`);
  const box = byId("problems");
  const said = found.join("\n");
  if (box.dataset.said !== said) {
    box.dataset.said = said;
    box.replaceChildren(h("ul", {}, ...found.map((text) => h("li", {}, text))));
    box.hidden = !found.length;
  }
  box.classList.toggle("bad", state.health.overall_status === "critical");
}

// -- charts -------------------------------------------------------------------------------------------------------------

function drawCharts() {
  const latest = samples[samples.length - 1];
  if (!latest) return;
  setText(byId("now-rate"), rate(latest.ok + failed(latest)));
  for (const chart of charts) chart.draw(samples);
  const totals = {};
  samples.forEach((sample, at) => {
    const passed = at ? sample.at - samples[at - 1].at : 1;
    for (const [kind, value] of Object.entries(sample.errors)) {
      if (kind !== "client_disconnected") totals[kind] = (totals[kind] ?? 0) + value * passed;
    }
  });
  const sorted = Object.entries(totals).map(([kind, value]) => [kind, Math.round(value)]).filter(([, count]) => count).sort((a, b) => b[1] - a[1]);
  const box = byId("errors-by-type");
  const said = sorted.map(([kind, count]) => `${kind} ${count}`).join();
  if (box.dataset.said === said) return;
  box.dataset.said = said;
  box.replaceChildren(
    h("span", { class: "quiet" }, sorted.length ? "Errors by type:" : "No errors in the last five minutes."),
    ...sorted.map(([kind, count]) => h("button", { class: "small", type: "button", onclick: () => requests.lookFor(kind, "failed") }, `${words(kind)} `, h("b", { class: "bad" }, String(count)))),
  );
}

// -- backends -----------------------------------------------------------------------------------------------------------

const BACKEND_CELLS = ["Backend", "Health", "Circuit", "Load", "Latency", "Failed", "KV cache", "GPU memory", "Worker", "Acts"];
const NUMBERS = new Set(["Latency", "Failed", "Answered", "Retries", "Queued"]);

function makeRow(labels) {
  return () => {
    const cells = labels.map((label, at) =>
      h(at ? "td" : "th", { "data-label": label, class: NUMBERS.has(label) ? "number" : null, scope: at ? null : "row" }),
    );
    return h("tr", {}, ...cells);
  };
}

function makeBackend(backend) {
  const row = makeRow(BACKEND_CELLS)();
  const button = (verb, label, tone) =>
    h("button", { class: `small ${tone ?? ""}`, type: "button", "data-verb": verb, "aria-label": `${label} ${backend.name}`, onclick: () => act(verb, backend.name) }, label);
  row.lastElementChild.append(
    h("div", { class: "buttons" }, button("drain", "Drain"), button("eject", "Eject", "danger"), button("restore", "Restore"), button("breaker/open", "Open circuit"), button("breaker/reset", "Close circuit")),
  );
  return row;
}

function health(backend) {
  if (backend.service === "ejected") return ["ejected", "bad", "by an operator"];
  if (backend.service === "draining") return [backend.in_flight ? "draining" : "drained", "warn", backend.in_flight ? `${backend.in_flight} still running` : "by an operator"];
  if (backend.healthy) return [backend.state === "unknown" ? "not probed yet" : backend.state, backend.state === "healthy" ? "good" : "", backend.message];
  return [backend.state, backend.state === "loading" ? "warn" : "bad", backend.message];
}

const CIRCUIT = { closed: ["closed", "good"], half_open: ["half open", "warn"], open: ["open", "bad"] };

function circuitNote({ forced, retry_after: wait, failures, requests: seen, seen_by: by }) {
  if (forced) return "held open by an operator";
  if (by) return `in ${by}`;
  if (wait) return `tried again in ${Math.ceil(wait)} s`;
  return seen ? `${failures} of ${seen} failed` : null;
}

// Shows the acts that make sense now. Focus on one that goes moves to its neighbour.
function offer(row, sensible) {
  const buttons = [...row.querySelectorAll("button")];
  const focused = buttons.find((button) => button === document.activeElement);
  for (const button of buttons) button.hidden = !sensible[button.dataset.verb];
  if (focused?.hidden) buttons.find((button) => !button.hidden)?.focus();
}

function updateBackend(row, backend) {
  const told = JSON.stringify(backend);
  if (row.told === told) return;
  row.told = told;
  const [state, tone, note] = health(backend);
  const [circuit, circuitTone] = CIRCUIT[backend.breaker.state];
  const lately = backend.lately ?? { ok: 0, failed: 0, p50: null, p95: null };
  const worker = backend.worker;
  cell(row, "Backend", backend.name, h("small", {}, `${backend.kind} · ${backend.url.replace(/^https?:\/\//, "")}`));
  cell(row, "Health", h("span", { class: `badge ${tone}` }, state), note && h("small", {}, note));
  const circuitSays = circuitNote(backend.breaker);
  cell(row, "Circuit", h("span", { class: `badge ${circuitTone}` }, circuit), circuitSays && h("small", {}, circuitSays));
  cell(row, "Load", `${backend.in_flight} / ${backend.limit}`, backend.waiting ? h("span", { class: "quiet" }, ` +${Math.round(backend.waiting)} waiting`) : null, gauge(backend.limit ? backend.in_flight / backend.limit : 0));
  cell(row, "Latency", lately.ok ? `${milliseconds(lately.p50)} / ${milliseconds(lately.p95)}` : "–", h("small", {}, `${lately.ok} answered`));
  cell(row, "Failed", h("span", { class: lately.failed ? "bad" : "quiet" }, String(lately.failed)));
  cell(row, "KV cache", percent(backend.kv_cache), backend.kv_cache === null ? null : gauge(backend.kv_cache));
  cell(row, "GPU memory", percent(backend.gpu_memory), backend.gpu_memory === null ? null : gauge(backend.gpu_memory), backend.strained && h("small", { class: "warn" }, "asked last"));
  cell(row, "Worker", worker ? worker.state : h("span", { class: "quiet" }, "not ours"), worker && h("small", { class: worker.restarts ? "warn" : null }, `${worker.restarts} restart${worker.restarts === 1 ? "" : "s"}`), worker?.pid ? h("small", {}, `pid ${worker.pid}`) : null);
  offer(row, {
    drain: backend.service === "active",
    eject: backend.service !== "ejected",
    restore: backend.service !== "active",
    "breaker/open": !backend.breaker.forced,
    "breaker/reset": backend.breaker.forced || backend.breaker.state !== "closed",
  });
}

// -- routes -------------------------------------------------------------------------------------------------------------

const ROUTE_CELLS = ["Route", "Tiers", "Policy", "Answered", "Failed", "Retries", "Queued", "Degradation"];

function updateRoute(row, route) {
  const told = JSON.stringify(route);
  if (row.told === told) return;
  row.told = told;
  const errors = Object.entries(route.errors).sort((a, b) => b[1] - a[1]);
  const tiers = route.tiers.flatMap((tier, at) => [
    at ? h("span", { class: "quiet" }, at ? "else" : "") : null,
    h("span", { class: "tier" }, ...tier.map((target) => h("span", { class: target.usable ? "chip" : "chip off", title: target.usable ? null : "can't be asked now" }, target.backend, target.usable ? null : h("span", { class: "hidden" }, " (can't be asked now)")))),
  ]);
  cell(row, "Route", route.name, route.models.join() === route.name ? null : h("small", {}, route.models.join(", ")));
  cell(row, "Tiers", h("div", { class: "tiers" }, ...tiers));
  cell(row, "Policy", route.policy, h("small", {}, `${words(route.balance)}, ${route.attempts} attempts, first token ${seconds(route.timeouts.first_token)}, total ${duration(route.timeouts.total)}`));
  cell(row, "Answered", String(route.ok));
  cell(row, "Failed", h("span", { class: errors.length ? "bad" : "quiet" }, String(errors.reduce((sum, [, count]) => sum + count, 0))), ...errors.slice(0, 3).map(([kind, count]) => h("small", {}, `${words(kind)} ${count}`)));
  cell(row, "Retries", String(route.retries));
  cell(row, "Queued", String(route.queued));
  const level = route.degradation;
  cell(row, "Degradation", level === null ? h("span", { class: "quiet" }, "off") : h("span", { class: `badge ${{ full: "good", reduced: "warn", minimal: "bad" }[level] ?? ""}` }, level));
}

// -- machine, acts ------------------------------------------------------------------------------------------------------

function drawMachine(machine, workers) {
  if (!machine) return;
  const meter = (name, share, text) => h("div", {}, h("dt", { title: name }, name), h("dd", {}, gauge(share)), h("dd", {}, text));
  const { memory, disk } = machine;
  const rows = [
    meter("CPU", machine.cpu, percent(machine.cpu)),
    meter("Memory", memory.used / memory.limit, `${bytes(memory.used)} of ${bytes(memory.limit)}`),
    meter("Disk", 1 - disk.free / disk.total, `${bytes(disk.free)} free`),
    ...machine.gpus.map((gpu) => meter(`GPU ${gpu.index}`, gpu.memory_used / gpu.memory_total, `${percent(gpu.utilisation)} busy, ${bytes(gpu.memory_used)} of ${bytes(gpu.memory_total)}`)),
  ];
  if (!machine.gpus.length) rows.push(h("div", {}, h("dt", {}, "GPU"), h("dd", { class: "quiet" }, machine.gpu_message || "none here")));
  if (workers.length > 1) {
    rows.push(...workers.map((one) => h("div", {}, h("dt", {}, `Worker ${one.worker}`), h("dd", {}, `pid ${one.pid}, up ${duration(one.uptime_seconds)}, ${one.in_flight} in flight`))));
  }
  byId("machine").replaceChildren(...rows);
}

function drawActs(acts) {
  const box = byId("acts");
  const said = JSON.stringify(acts);
  if (box.dataset.said === said) return;
  box.dataset.said = said;
  const item = (done) => h("li", {}, h("span", { class: "quiet" }, `${clock(done.at)} `), h("b", {}, `${words(done.verb)} ${done.backend ?? ""} `), h("span", { class: done.outcome === "done" ? "good" : "warn" }, done.outcome), h("small", { class: "quiet" }, ` ${[done.actor.name || done.actor.by, done.actor.peer && `from ${done.actor.peer}`, done.reason, done.detail].filter(Boolean).join(" · ")}`));
  box.replaceChildren(...(acts.length ? acts.map(item) : [h("li", { class: "quiet" }, "None since the start.")]));
}

// -- events -------------------------------------------------------------------------------------------------------------

function draw(state) {
  drawTop(state);
  drawProblems(state);
  reconcile(byId("backends").tBodies[0], state.backends, (each) => each.name, makeBackend, updateBackend);
  reconcile(byId("routes").tBodies[0], state.routes, (each) => each.name, makeRow(ROUTE_CELLS), updateRoute);
  byId("backends").classList.toggle("unsupervised", state.backends.every((each) => !each.worker));
  byId("backends").classList.toggle("no-gpus", state.backends.every((each) => each.gpu_memory === null && !each.strained));
  drawMachine(state.machine, state.workers);
  drawActs(state.acts);
  byId("reload").hidden = state.config.file === null;
}

function connection(text, tone) {
  const live = byId("live");
  setText(live, text);
  live.className = `live ${tone}`;
}

function heard() {
  lastEvent = Date.now();
  connection("live", "on");
}

function listen() {
  const source = new EventSource("/admin/events");
  source.addEventListener("snapshot", (message) => {
    heard();
    const state = JSON.parse(message.data);
    samples = state.history.slice(-KEPT);
    draw(state);
    drawCharts();
    requests.refresh();
  });
  source.addEventListener("state", (message) => {
    heard();
    const state = JSON.parse(message.data);
    draw(state);
    if (!state.sample) return;
    samples = [...samples, state.sample].slice(-KEPT);
    drawCharts();
    requests.add(state.requests);
  });
  source.addEventListener("error", () => {
    connection("connection lost", "off");
    if (source.readyState !== EventSource.CLOSED) return; // the browser tries again by itself
    source.close();
    setTimeout(listen, 3000);
  });
}

setInterval(() => {
  if (lastEvent && Date.now() - lastEvent > SILENT) connection(`no news for ${duration((Date.now() - lastEvent) / 1000)}`, "off");
}, 1000);

// -- theme --------------------------------------------------------------------------------------------------------------

const THEMES = ["auto", "light", "dark"];

function theme(name) {
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  setText(byId("theme"), `Theme: ${name}`);
  byId("theme").setAttribute("aria-label", `Theme: ${name === "auto" ? "as the system" : name}`);
  localStorage.setItem("seawall-theme", name);
}

const chosen = () => (THEMES.includes(localStorage.getItem("seawall-theme")) ? localStorage.getItem("seawall-theme") : "auto");
theme(chosen());
byId("theme").addEventListener("click", () => theme(THEMES[(THEMES.indexOf(chosen()) + 1) % THEMES.length]));
byId("reload").addEventListener("click", () => confirmReload().catch((error) => toast(String(error.message ?? error))));
listen();
