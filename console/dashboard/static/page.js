// Wires the page: events in, what is chosen in the URL, everything else in its own file.

import { showChart } from "./chart.js";
import { duration, element, number, percent, rate } from "./format.js";
import { explain } from "./lookup.js";
import { lossText, showPops, stateClass } from "./pops.js";

const SILENCE_MS = 8000;
const byId = (id) => document.getElementById(id);
const asked = new URLSearchParams(location.search);
let newest = null;
let heardMs = 0;

// The URL holds what is chosen, so that a link shows the same page to the next person.
function remember(key, value) {
  if (value) asked.set(key, value);
  else asked.delete(key);
  const query = asked.toString();
  history.replaceState(null, "", query ? `?${query}` : location.pathname);
}

function show() {
  const { status, pops } = newest;
  showStatus(status);
  showPops(pops, status, asked.get("pop"), choose);
  showSelected(pops.find((pop) => pop.id === asked.get("pop")));
}

function showStatus(status) {
  const lost = Date.now() - heardMs > SILENCE_MS;
  const stale = status.stale || lost;
  const problems = lost ? ["this page lost its connection; it keeps trying"] : status.problems;
  const waiting = status.waiting && !lost;
  document.body.classList.toggle("waiting", waiting);
  document.body.classList.toggle("stale", stale && !waiting);
  setText("verdict", waiting ? "○ Waiting" : stale ? "✖ STALE" : "● Fresh");
  document.title = title(stale && !waiting, status.counts);
  const passed = (Date.now() - heardMs) / 1000;
  const aged = (age) => (age === null ? "–" : duration(age + passed));
  setText("data-age", aged(status.data_age_s));
  const table = status.table_generation;
  setText("table-age", table === null ? "none" : `${table}, ${aged(status.table_age_s)}`);
  setText("state-age", aged(status.state_age_s));
  setText("stream-ages", streamAges(status.heartbeat_age_s, aged));
  setText("demand", status.demand_bps ? rate(status.demand_bps) : "–");
  setText("latency", status.latency_ms === null ? "–" : `${number(status.latency_ms)} ms`);
  setText("overload", percent(status.overload_share, 1));
  byId("overload-figure").hidden = status.overload_share < 0.0005;
  byId("counts").replaceChildren(
    ...Object.entries(status.counts).map(([health, count]) =>
      element("li", {}, element("span", { className: stateClass(health), textContent: `${count} ${health}` }))),
  );
  showLines("problems", problems);
  const more = status.orders - status.orders_told.length;
  showLines("orders", more ? [...status.orders_told, `and ${more} more: popsteer orders`] : status.orders_told);
}

// A tab in the background tells by its title.
function title(stale, counts) {
  const down = counts.Down ? `${counts.Down} Down · ` : "";
  return stale ? `STALE · ${down}popsteer` : down ? `${down}popsteer` : "popsteer · POP health";
}

function streamAges(ages, aged) {
  const short = (stream) => stream.replace(/^.*-/, "");
  return Object.entries(ages).map(([stream, age]) => `${short(stream)} ${aged(age)}`).join(", ") || "–";
}

function showLines(id, lines) {
  byId(id).hidden = lines.length === 0;
  if (byId(id).textContent === lines.join("")) return;
  byId(id).replaceChildren(...lines.map((text) => element("li", { textContent: text })));
}

// Only what changed is written: a screen reader is told once.
function setText(id, text) {
  if (byId(id).textContent !== text) byId(id).textContent = text;
}

function choose(pop) {
  if (asked.get("noc")) return;
  remember("pop", asked.get("pop") === pop ? "" : pop);
  show();
  refreshChart();
  // On a narrow screen it is above the table.
  if (asked.get("pop")) byId("selected").scrollIntoView({ block: "nearest" });
}

function showSelected(pop) {
  byId("selected").hidden = !pop;
  if (!pop) return;
  setText("selected-title", pop.id);
  byId("selected-state").replaceChildren(
    element("span", { className: stateClass(pop.health), textContent: pop.health }),
    pop.why ? ` ${pop.why}` : "",
  );
  const figures = [
    ["Addresses", pop.addresses.join(" ") || "–"],
    ["RTT", pop.rtt_p50_ms === null ? "not measured" : `${number(pop.rtt_p50_ms)} ms, 95% below ${number(pop.rtt_p95_ms, 0)} ms`],
    ["Loss", pop.loss === null ? "not measured" : percent(pop.loss, 1)],
    ["Load", pop.capacity_bps ? `${rate(pop.load_bps)} of ${rate(pop.capacity_bps)}` : rate(pop.load_bps)],
    ["Planned", rate(pop.planned_bps)],
    ...pop.links.map((one) => [
      `Link ${one.id}`, `${rate(one.tx_bps)} of ${rate(one.capacity_bps)}`,
    ]),
    ["Demand", `${percent(pop.demand_share, 2)} now, ${percent(pop.demand_share_before, 2)} ten minutes ago`],
    ["Shed", pop.shed ? `${percent(pop.shed)} of its answers go to the next candidate` : "nothing"],
    ["If lost", lossText(pop.if_lost)],
    ["Samples", `${number(pop.samples_per_min, 0)} a minute`],
  ];
  if (byId("selected-figures").textContent === figures.flat().join("")) return;
  byId("selected-figures").replaceChildren(
    ...figures.flatMap(([name, text]) => [element("dt", { textContent: name }), element("dd", { textContent: text })]),
  );
}

async function refreshChart() {
  const pop = asked.get("pop");
  if (!pop || asked.get("noc")) return;
  const answer = await fetch(`/api/history?pop=${encodeURIComponent(pop)}`).catch(() => null);
  if (answer?.ok && asked.get("pop") === pop) showChart(byId("chart"), pop, await answer.json());
}

function lookUp() {
  const text = asked.get("q");
  if (asked.get("noc")) return;
  if (text) explain(byId("answer"), text);
  else byId("answer").replaceChildren();
}

function listen() {
  const events = new EventSource("/events");
  events.addEventListener("health", (event) => {
    const before = newest?.status.table_generation;
    newest = JSON.parse(event.data);
    heardMs = Date.now();
    show();
    if (before !== undefined && before !== newest.status.table_generation) lookUp();
  });
  // The browser reconnects by itself, except after an error status.
  events.addEventListener("error", () => {
    if (events.readyState === EventSource.CLOSED) setTimeout(listen, 2000);
  });
}

function start() {
  document.body.classList.add("waiting");
  document.documentElement.classList.toggle("noc", Boolean(asked.get("noc")));
  byId("address").value = asked.get("q") ?? "";
  byId("lookup").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = byId("address").value.trim();
    remember("q", text);
    lookUp();
  });
  lookUp();
  listen();
  refreshChart();
  setInterval(() => newest && showStatus(newest.status), 1000);
  setInterval(refreshChart, 5000);
}

start();
