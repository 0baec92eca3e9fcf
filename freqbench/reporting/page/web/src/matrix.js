// Transfer: what an attack made on one model does to another, and how attacks of a threat model compare.

import { named, shown, worded } from "./data.js";
import { choice, h, paperOf, reword, table } from "./dom.js";
import { heatCell, heatTable, legend } from "./heat.js";
import { byThreat, chosenPair, pairBar } from "./pair.js";
import * as state from "./state.js";

const LEAST_DROP = 0.5; // points of DSC: a share of less than that says nothing
const TOO_SMALL = `a white-box drop under ${LEAST_DROP} points has no share that means anything`;
const VIEWS = [
  ["points", "drop in points of foreground DSC"],
  ["percent", "% of the white-box drop"],
  ["dsc", "foreground DSC that is left"],
];

export function matrix(panel, app) {
  const { data } = app;
  const { summary } = data;
  const pair = pairBar(data, ["dataset"]);
  const attackHolder = h("span", { class: "bar" });
  const view = choice("Show", VIEWS, state.get("transfer", "points"), (value) => state.set({ transfer: value }));
  const output = h("div", {});
  panel.append(
    h(
      "p",
      {},
      "Rows: the model whose gradients made the volumes. Columns: the model that is scored. The outlined diagonal is white-box.",
    ),
    h("div", { class: "bar" }, pair.element, attackHolder, view),
    output,
  );
  let offered = "";

  function update() {
    pair.update();
    const { dataset, rows } = chosenPair(data);
    const attacks = byThreat(data, rows).flatMap(([, members]) => [
      ...new Set(members.map((row) => summary.text("attack", row))),
    ]);
    const attack = attacks.includes(state.get("attack")) ? state.get("attack") : strongest(rows);
    if (offered !== JSON.stringify([dataset, attacks])) {
      offered = JSON.stringify([dataset, attacks]);
      attackHolder.replaceChildren(choice("Attack", attacks, attack, (value) => state.set({ attack: value })));
    }
    attackHolder.querySelector("select").value = attack ?? "";
    const kind = VIEWS.some(([name]) => name === state.get("transfer")) ? state.get("transfer") : "points";
    view.querySelector("select").value = kind;
    const views = VIEWS.map(([name, text]) => [name, worded(text, dataset)]);
    reword(view, views);
    if (!attack) return output.replaceChildren(h("p", {}, "No attack was run on this dataset."));
    output.replaceChildren(
      ...one(
        rows.filter((row) => summary.text("attack", row) === attack),
        attack,
        kind,
        views.find(([name]) => name === kind)[1],
      ),
      h("h3", {}, "Attacks compared"),
      ranking(rows),
    );
  }

  /** The attack that takes most from the models that it was made on, null rows apart. */
  function strongest(rows) {
    const own = rows.filter((row) => summary.text("transfer", row) === "white-box" && !summary.number("null", row));
    const of = (attack) => mean(own.filter((row) => summary.text("attack", row) === attack), "dsc_foreground_drop");
    const drops = new Map([...new Set(own.map((row) => summary.text("attack", row)))].map((attack) => [attack, of(attack)]));
    const known = [...drops].filter(([, drop]) => !Number.isNaN(drop)).sort(([, a], [, b]) => b - a);
    return known[0]?.[0] ?? (rows.length ? summary.text("attack", rows[0]) : null);
  }

  function one(rows, attack, kind, what) {
    const names = (column) => [...new Set(rows.map((row) => summary.text(column, row)))].sort();
    const found = new Map(
      rows.map((row) => [`${summary.text("source", row)}\u0000${summary.text("target", row)}`, row]),
    );
    const drop = (source, target) => {
      const row = found.get(`${source}\u0000${target}`);
      return row === undefined ? NaN : summary.number("dsc_foreground_drop", row);
    };
    const value = (source, target) => {
      if (kind === "points") return drop(source, target);
      if (kind === "dsc") return summary.number("dsc_foreground", found.get(`${source}\u0000${target}`) ?? -1) ?? NaN;
      const own = drop(source, source);
      return own >= LEAST_DROP ? (100 * drop(source, target)) / own : NaN;
    };
    const share = (number) => (kind === "dsc" ? 1 - number / 100 : number / (kind === "percent" ? 100 : 60));
    const why = (source, target) => {
      if (!found.has(`${source}\u0000${target}`)) return `not run: ${source} on ${target}`;
      if (kind === "percent" && !(drop(source, source) >= LEAST_DROP))
        return `${source}: ${Number.isNaN(drop(source, source)) ? "no white-box row" : TOO_SMALL}`;
      return summary.text("error", found.get(`${source}\u0000${target}`)) ?? "undefined on these volumes";
    };
    const targets = names("target");
    const lines = names("source").map((source) => [
      source,
      targets.map((target) => {
        const number = value(source, target);
        const text = shown(number, kind === "percent" ? 0 : 1);
        return heatCell(
          text,
          share(number),
          text ? `${source} to ${target}: ${text}` : why(source, target),
          source === target ? "own" : "",
        );
      }),
    ]);
    const first = rows[0];
    const distances = ["linf_255", "l2_body", "ssim", "ssim_body", "lpips_body"]
      .map((name) => [data.scoreOf[name], mean(rows, name)])
      .filter(([, number]) => !Number.isNaN(number))
      .map(([score, number]) => `${score.heading} ${shown(number, score.digits)}`);
    const ends = { points: ["0", "60 or more"], percent: ["0 %", "100 % or more"], dsc: ["100", "0"] }[kind];
    return [
      h("h3", {}, named(data, first)),
      paperOf(data, first, (paper) => h("p", {}, "Paper: ", paper)) ?? "",
      h(
        "p",
        {},
        `Threat model ${summary.text("threat", first)}. Distances (mean): ${distances.join(", ") || "not measured"}.`,
      ),
      heatTable(`${attack}: ${what}`, "source \\ target", targets, [[null, lines]]),
      legend(...ends, what),
    ];
  }

  function mean(rows, name) {
    const values = rows.map((row) => summary.number(name, row)).filter((value) => !Number.isNaN(value));
    return values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : NaN;
  }

  function ranking(rows) {
    const distances = ["linf_255", "l2_body", "ssim_body", "lpips_body"].map((name) => data.scoreOf[name]);
    const drops = ["attack", "white-box drop", "transfer drop", "transfer %"];
    const columns = [...drops, ...distances.map((score) => score.heading)].map((heading, place) => ({
      heading,
      number: place > 0,
    }));
    const sections = byThreat(data, rows).map(([threat, members]) => {
      const attacks = [...new Set(members.map((row) => summary.text("attack", row)))];
      const lines = attacks.map((attack) => {
        const mine = members.filter((row) => summary.text("attack", row) === attack);
        const own = mean(
          mine.filter((row) => summary.text("transfer", row) === "white-box"),
          "dsc_foreground_drop",
        );
        const others = mean(
          mine.filter((row) => summary.text("transfer", row) === "transfer"),
          "dsc_foreground_drop",
        );
        const rate = own >= LEAST_DROP ? (100 * others) / own : NaN;
        const cell = (number, digits, why) => ({
          text: shown(number, digits),
          title: Number.isNaN(number) ? why : null,
        });
        return {
          own,
          line: [
            attack,
            cell(own, 1, "no white-box rows"),
            cell(others, 1, "no transfer rows"),
            cell(rate, 0, Number.isNaN(own) || Number.isNaN(others) ? "no white-box or no transfer rows" : TOO_SMALL),
            ...distances.map((score) => cell(mean(mine, score.name), score.digits, "not measured")),
          ],
        };
      });
      lines.sort((a, b) => ((Number.isNaN(a.own) ? -1e9 : a.own) < (Number.isNaN(b.own) ? -1e9 : b.own) ? 1 : -1));
      return [`threat model: ${threat}`, ...lines.map(({ line }) => line)];
    });
    return table(
      "All attacks: means over models; in each threat model the largest white-box drop first",
      columns,
      sections.flat(),
    );
  }

  update();
  return { update };
}
