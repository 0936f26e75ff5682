// The table of POPs. Rows are kept and moved, so that nothing blinks and focus stays.

import { duration, element, number, percent, rate } from "./format.js";

const BAD = new Set(["Down", "No data"]);
const WARN = new Set(["Shedding", "Degraded"]);
const rows = new Map();

export function stateClass(health) {
  return `state ${health.toLowerCase().replace(" ", "-")}`;
}

export function fullestLink(pop) {
  const part = (link) => (link.capacity_bps ? link.tx_bps / link.capacity_bps : 0);
  return pop.links.reduce((most, link) => (!most || part(link) > part(most) ? link : most), null);
}

export function showPops(pops, status, chosen, choose) {
  const body = document.getElementById("rows");
  document.getElementById("empty").hidden = pops.length > 0;
  const present = new Set(pops.map((pop) => pop.id));
  for (const [id, row] of rows) {
    if (!present.has(id)) {
      row.line.remove();
      rows.delete(id);
    }
  }
  pops.forEach((pop, index) => {
    if (!rows.has(pop.id)) rows.set(pop.id, newRow(pop.id, choose));
    const row = rows.get(pop.id);
    fill(row, pop, status.target_utilisation);
    row.line.classList.toggle("chosen", pop.id === chosen);
    row.name.setAttribute("aria-pressed", String(pop.id === chosen));
    if (body.children[index] !== row.line) body.insertBefore(row.line, body.children[index] ?? null);
  });
}

function newRow(id, choose) {
  const cell = (className = "") => element("td", { className });
  const row = {
    state: element("span"),
    name: element("button", { type: "button", textContent: id }),
    rtt: cell("number"),
    loss: cell("number"),
    load: newBar(),
    link: newBar(),
    demand: cell("number"),
    shed: cell("number"),
    lost: cell("number"),
    age: cell("number"),
    why: cell("why"),
  };
  row.line = element(
    "tr", {},
    element("td", {}, row.state),
    element("th", { scope: "row" }, row.name),
    row.rtt, row.loss,
    element("td", { className: "wide" }, row.load.box),
    element("td", { className: "wide" }, row.link.box),
    row.demand, row.shed, row.lost, row.age, row.why,
  );
  row.line.addEventListener("click", () => choose(id));
  return row;
}

function fill(row, pop, target) {
  row.line.className = BAD.has(pop.health) ? "bad" : WARN.has(pop.health) ? "warn" : "";
  row.state.className = stateClass(pop.health);
  row.state.textContent = pop.health;
  row.rtt.replaceChildren(
    number(pop.rtt_p50_ms),
    element("span", { className: "faint", textContent: ` / ${number(pop.rtt_p95_ms, 0)}` }),
  );
  row.loss.textContent = percent(pop.loss, 1);
  row.loss.classList.toggle("over", (pop.loss ?? 0) > 0.02);
  const known = pop.age_s !== null;
  fillBar(row.load, pop.load_bps, known ? pop.capacity_bps : 0, target, "");
  const link = fullestLink(pop);
  fillBar(row.link, link?.tx_bps ?? 0, known ? (link?.capacity_bps ?? 0) : 0, 1, link?.id ?? "");
  showDemand(row.demand, pop);
  row.shed.textContent = pop.shed ? percent(pop.shed) : "";
  showLoss(row.lost, pop.if_lost);
  row.age.textContent = duration(pop.age_s);
  row.why.textContent = pop.why;
  row.why.title = pop.why;
}

function showDemand(cell, pop) {
  if (pop.age_s === null && !pop.demand_share) {
    cell.textContent = "–";
    return;
  }
  const change = pop.demand_share - pop.demand_share_before;
  const sign = change > 0.0005 ? "▲" : change < -0.0005 ? "▼" : "";
  const text = sign ? ` ${sign} ${Math.abs(change * 100).toFixed(1)}` : "";
  cell.replaceChildren(
    percent(pop.demand_share, 1),
    element("span", { className: "faint", textContent: text }),
  );
}

function showLoss(cell, loss) {
  cell.classList.toggle("over", (loss?.overload_bps ?? 0) > 0);
  cell.title = lossText(loss);
  if (!loss || !loss.fullest) {
    cell.textContent = loss ? "" : "–";
    return;
  }
  const added = loss.added_ms === null ? "" : ` +${number(loss.added_ms, 0)} ms`;
  cell.replaceChildren(
    loss.utilisation === null ? "–" : percent(loss.utilisation),
    element("span", { className: "faint", textContent: added }),
  );
}

// What its loss would do, in words.
export function lossText(loss) {
  if (!loss) return "not looked at yet";
  if (!loss.fullest) return "nobody would move";
  const added = loss.added_ms === null ? "" : `, +${number(loss.added_ms, 0)} ms for those who move`;
  const full = loss.utilisation === null ? "" : ` at ${percent(loss.utilisation)}`;
  return loss.overload_bps > 0
    ? `no room for ${rate(loss.overload_bps)}, most of all at ${loss.fullest}${full}${added}`
    : `${loss.fullest} would be fullest${full}${added}`;
}

function newBar() {
  const fillPart = element("span", { className: "fill" });
  const mark = element("span", { className: "mark" });
  const value = element("span", { className: "value" });
  const track = element("span", { className: "track" }, fillPart, mark);
  return { box: element("div", { className: "bar" }, track, value), fill: fillPart, mark, value };
}

function fillBar(bar, used, capacity, target, name) {
  const part = capacity ? used / capacity : 0;
  bar.box.className = part > 1 ? "bar bad" : part > Math.max(target, 0.82) + 0.03 ? "bar warn" : "bar";
  bar.fill.style.width = `${Math.min(100, part * 100)}%`;
  bar.mark.hidden = !capacity || target >= 1;
  bar.mark.style.left = `${target * 100}%`;
  bar.value.textContent = capacity ? percent(part) : "–";
  bar.box.title = capacity
    ? `${name ? `${name}: ` : ""}${rate(used)} of ${rate(capacity)}`
    : used ? `${rate(used)}, no capacity configured` : "not measured";
}
