// The smoke of one POP: median and 95th percentile of RTT, loss on the floor, table changes.

import { drawn, element, number, percent } from "./format.js";

const WIDTH = 340;
const HEIGHT = 150;
const LEFT = 34;
const FLOOR = HEIGHT - 30;
const LOSS_HEIGHT = 10;
const MINUTE_MS = 60 * 1000;
const SPAN_MS = [5 * MINUTE_MS, 30 * MINUTE_MS];

export function showChart(box, pop, past) {
  const last = past.time_ms.at(-1) ?? Date.now();
  const seen = last - (past.time_ms[0] ?? last);
  const span = Math.min(Math.max(seen, SPAN_MS[0]), SPAN_MS[1]);
  const x = (ms) => LEFT + (WIDTH - LEFT) * Math.max(0, 1 - (last - ms) / span);
  const known = past.rtt_p95_ms.filter((value) => value !== null);
  const top = niceTop(Math.max(1, ...known));
  const y = (rtt) => FLOOR - (FLOOR - 8) * (rtt / top);
  const svg = drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
  svg.setAttribute("aria-label", summary(pop, past));
  grid(svg, top, y, span);
  const step = past.step_s * 1000;
  for (const run of runs(past)) smoke(svg, past, run, x, y);
  past.time_ms.forEach((ms, i) => floor(svg, past, i, x(ms - step), x(ms) - x(ms - step)));
  for (const [ms] of past.tables.slice(1)) {
    if (last - ms < span) svg.append(drawn("line", { class: "table", x1: x(ms), x2: x(ms), y1: 4, y2: FLOOR }));
  }
  const caption = element("figcaption", {
    textContent: "Median and 95th percentile, ms. Floor: loss. Dashed: a new table.",
  });
  box.replaceChildren(element("figure", {}, svg, caption));
}

function summary(pop, past) {
  const minutes = Math.round((past.time_ms.length * past.step_s) / 60);
  return `RTT of ${pop} over the last ${minutes} minutes: median ${number(past.rtt_p50_ms.at(-1))} ms, `
    + `95th percentile ${number(past.rtt_p95_ms.at(-1))} ms, loss ${percent(past.loss.at(-1), 1)} now`;
}

function niceTop(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 3, 5, 10].map((n) => n * power).find((n) => n >= value * 1.05) ?? 10 * power;
}

function grid(svg, top, y, span) {
  for (const value of [0, top / 2, top]) {
    svg.append(drawn("line", { class: "grid", x1: LEFT, x2: WIDTH, y1: y(value), y2: y(value) }));
    svg.append(drawn("text", { x: LEFT - 5, y: y(value) + 4, "text-anchor": "end" }, String(value)));
  }
  const below = HEIGHT - 3;
  svg.append(drawn("text", { x: LEFT, y: below }, `${Math.round(span / MINUTE_MS)} min ago`));
  svg.append(drawn("text", { x: WIDTH, y: below, "text-anchor": "end" }, "now"));
}

// Stretches without a gap: [first, last] indices of points with data.
function runs(past) {
  const found = [];
  past.rtt_p50_ms.forEach((value, i) => {
    if (value === null) return;
    const open = found.at(-1);
    const near = open && open[1] === i - 1 && past.time_ms[i] - past.time_ms[i - 1] < 3000 * past.step_s;
    if (near) open[1] = i;
    else found.push([i, i]);
  });
  return found;
}

function smoke(svg, past, [first, last], x, y) {
  const indices = Array.from({ length: last - first + 1 }, (_, i) => first + i);
  const low = indices.map((i) => `${x(past.time_ms[i])},${y(past.rtt_p50_ms[i])}`);
  const high = indices.map((i) => `${x(past.time_ms[i])},${y(past.rtt_p95_ms[i] ?? past.rtt_p50_ms[i])}`);
  svg.append(drawn("polygon", { class: "band", points: [...low, ...high.reverse()].join(" ") }));
  svg.append(drawn("polyline", { class: "median", points: low.join(" ") }));
}

function floor(svg, past, i, left, width) {
  const loss = past.loss[i];
  const wide = Math.max(1, width);
  if (past.rtt_p50_ms[i] === null && !loss) {
    svg.append(drawn("rect", { class: "gap", x: left, y: 8, width: wide, height: FLOOR - 8 }));
  } else if (loss > 0.005) {
    // A little loss must be seen and much must not hide: height by square root.
    const height = LOSS_HEIGHT * Math.min(1, 0.25 + Math.sqrt(loss));
    const most = loss > 0.5 ? "loss most" : "loss";
    svg.append(drawn("rect", { class: most, x: left, y: FLOOR + LOSS_HEIGHT + 2 - height, width: wide, height }));
  }
}
