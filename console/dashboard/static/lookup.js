// "Where does a client go?": what `popsteer explain` says, beside the table.

import { duration, element, number, percent } from "./format.js";

const CANDIDATES_MAX = 6;

export async function explain(box, asked) {
  const answer = await fetch(`/api/explain?address=${encodeURIComponent(asked)}`).catch(() => null);
  if (!answer) return fail(box, "The console does not answer.");
  const told = await answer.json();
  return answer.ok ? show(box, told) : fail(box, told.error);
}

function fail(box, sentence) {
  box.replaceChildren(element("p", { className: "error", textContent: sentence }));
}

function show(box, told) {
  box.replaceChildren(headline(told), element("p", { className: "faint", textContent: source(told) }));
  for (const note of told.notes) box.append(element("p", { className: "note", textContent: `▲ ${note}` }));
  for (const order of told.orders) box.append(element("p", { className: "note", textContent: `■ ${order}` }));
  box.append(candidates(told.candidates));
}

function headline(told) {
  if (!told.pop) return element("p", { className: "error", textContent: `${told.asked} gets no address.` });
  const rtt = told.rtt_ms === null ? "" : `, ${number(told.rtt_ms)} ms expected`;
  return element(
    "p", { className: "goes" },
    `${told.asked} → `, element("b", { textContent: told.pop }), rtt,
  );
}

function source(told) {
  const parts = [`${told.prefix ? `row ${told.prefix}` : "no row"}, ECS scope /${told.scope}`];
  if (told.addresses.length) parts.push(told.addresses.join(" "));
  if (told.table_generation !== null) parts.push(`table ${told.table_generation}, ${duration(told.table_age_s)} old`);
  if (told.data_age_s !== null) parts.push(`data ${duration(told.data_age_s)} old`);
  return parts.join(" · ");
}

function candidates(all) {
  const heads = ["POP", "RTT ms", "±", "n", "age", "loss", "gets"];
  const head = element("tr", {}, ...heads.map((text) => element("th", { scope: "col", textContent: text })));
  const body = element("tbody");
  for (const one of all.slice(0, CANDIDATES_MAX)) {
    const cells = [
      number(one.rtt_ms), number(one.spread_ms), number(one.samples, 0), duration(one.age_s),
      percent(one.loss, 1), one.answers ? percent(one.answers) : "",
    ];
    body.append(
      element(
        "tr", { className: one.answers ? "taken" : "" },
        element("th", { scope: "row", textContent: one.pop }),
        ...cells.map((text) => element("td", { textContent: text })),
      ),
      element("tr", { className: "verdict-row" }, element("td", { colSpan: heads.length, textContent: one.verdict })),
    );
  }
  head.children[3].title = "Effective number of samples";
  head.children[6].title = "Share of the answers";
  const table = element("table", {}, element("thead", {}, head), body);
  const more = all.length - CANDIDATES_MAX;
  const rest = more > 0 ? `and ${more} more: popsteer explain` : "";
  return element("div", {}, table, element("p", { className: "faint", textContent: rest }));
}
