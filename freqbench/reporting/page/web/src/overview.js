// What was run, on what, what failed and why.

import { shown } from "./data.js";
import { h, plural, table } from "./dom.js";
import { distinct } from "./rows.js";
import { byThreat } from "./pair.js";

function card(value, label, note) {
  return h(
    "div",
    { class: "card" },
    h("div", { class: "big" }, value),
    h("div", {}, label),
    note ? h("div", { class: "hint" }, note) : null,
  );
}

/** The progress of each store's grid. */
export function progress(data) {
  const stores = new Map();
  for (const run of data.runs) stores.set(run.store, run);
  return [...stores.values()].map((run) => {
    const finished = run.done + run.failed;
    const beat = run.heartbeat ? `, last sign of life ${run.heartbeat.replace("T", " ").slice(0, 19)} UTC` : "";
    const text = `${run.store}: ${run.done.toLocaleString("en")} done, ${run.failed.toLocaleString("en")} failed${run.planned === null ? "" : ` of ${run.planned.toLocaleString("en")} planned`}, ${run.status ?? "status unknown"}${beat}`;
    const bar = run.planned
      ? h("progress", { max: String(run.planned), value: String(finished), "aria-label": text })
      : null;
    return h("div", { class: "progress" }, bar, h("span", {}, text));
  });
}

export function overview(panel, app) {
  const { data } = app;
  const { summary, clean, counts } = data;
  const texts = (name) => distinct(summary, name);
  const cases = data.cases
    ? `${plural(data.cases.texts.case.values.length, "case")}, ${plural(data.cases.texts.patient.values.length, "patient")}`
    : "";
  panel.append(
    h(
      "div",
      { class: "cards" },
      card(counts.ok.toLocaleString("en"), "records", "an attacked volume scored on a model"),
      card(counts.failed.toLocaleString("en"), "failed", counts.failed ? "reasons below" : "nothing failed"),
      card(String(texts("dataset").length), texts("dataset").length === 1 ? "dataset" : "datasets", cases),
      card(String(new Set([...texts("source"), ...texts("target")]).size), "models"),
      card(
        String(texts("attack").length),
        "attacks with their settings",
        `${plural(texts("threat").length, "threat model")}`,
      ),
    ),
    ...progress(data),
    h("h3", {}, "What was attacked"),
    table(
      "Clean predictions",
      ["dataset", "model", "n", "DSC foreground", "HD95 penalised mm", "DSC", "HD95"].map((heading, place) => ({
        heading,
        number: place > 1,
      })),
      Array.from({ length: clean.rows }, (_, row) => [
        clean.text("dataset", row),
        clean.text("target", row),
        shown(clean.number("cases", row), 0),
        ...["dsc_foreground", "hd95_penalised_mm", "dsc", "hd95"].map((name) => ({
          text: shown(clean.number(name, row), 1),
          title: Number.isNaN(clean.number(name, row)) ? "not measured, or undefined on these volumes" : null,
        })),
      ]),
    ),
    h("h3", {}, "What attacked it"),
    h(
      "p",
      {},
      "Each attack's means over all its white-box rows, by threat model. Compare within a threat model, and look at the distances.",
    ),
    attackTable(data),
    ...failureTables(data),
    h("h3", {}, "How to read this"),
    h(
      "ul",
      {},
      data.notes.map((text) => h("li", {}, text)),
    ),
  );
  return { update() {} };
}

function attackTable(data) {
  const { summary } = data;
  const all = Array.from({ length: summary.rows }, (_, row) => row);
  const own = all.filter((row) => summary.text("transfer", row) === "white-box");
  const scores = ["dsc_foreground", "dsc_foreground_drop", "dsc", "ssim", "ssim_body", "lpips_body", "linf_255", "l2_body"].map(
    (name) => data.scoreOf[name],
  );
  const columns = [
    { heading: "attack" },
    { heading: "rows", number: true },
    ...scores.map((score) => ({ heading: score.heading, number: true, title: score.meaning })),
  ];
  const sections = byThreat(data, own.length ? own : all).map(([threat, rows]) => {
    const lines = [...new Set(rows.map((row) => summary.text("attack", row)))].map((attack) => {
      const mine = rows.filter((row) => summary.text("attack", row) === attack);
      const means = scores.map((score) => {
        const values = mine.map((row) => summary.number(score.name, row)).filter((value) => !Number.isNaN(value));
        const mean = values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : NaN;
        return {
          text: shown(mean, score.digits),
          title: values.length
            ? null
            : (summary.text("error", mine[0]) ?? "not measured, or undefined on these volumes"),
        };
      });
      return [attack, String(mine.length), ...means];
    });
    return [`threat model: ${threat}`, ...lines];
  });
  return table("Attacks, by threat model", columns, sections.flat());
}

function failureTables(data) {
  const columns = (last) =>
    ["dataset", "source", "target", "attack", last, "reason"].map((heading) => ({ heading, number: heading === last }));
  const found = [h("h3", {}, "What failed")];
  if (data.failures.length) {
    const lines = data.failures.map((each) => [
      each.dataset,
      each.source,
      each.target,
      each.attack,
      String(each.failed),
      each.reason ?? "no reason was stored",
    ]);
    found.push(table("Failed records and the first reason", columns("failed"), lines));
  } else found.push(h("p", {}, "Nothing."));
  if (data.left_out.length) {
    const lines = data.left_out.map((each) => [
      each.dataset,
      each.source,
      each.target,
      each.attack,
      String(each.rows),
      each.reason,
    ]);
    found.push(
      h("h3", {}, "What is left out"),
      table("Rows that did not pass the strength check against fp32", columns("rows"), lines),
    );
  }
  return found;
}
