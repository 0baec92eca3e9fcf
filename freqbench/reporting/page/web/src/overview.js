// What was found, in pictures and sentences; then what was run, on what, what failed and why.

import { fitForPrint } from "./charts.js";
import { OWN, OWN_NOTE, definition, keyOf, named, scoresOn, shown, worded } from "./data.js";
import { choice, h, paperOf, plural, readyTable, table } from "./dom.js";
import { lost, strip, wipe, worstCase } from "./glimpses.js";
import { heatCell, heatTable, legend } from "./heat.js";
import { byThreat, chosenPair, cleanRow, threatName } from "./pair.js";
import { FILTERS, distinct } from "./rows.js";
import * as state from "./state.js";
import { tradeOff } from "./tradeoff.js";

const DROP = "dsc_foreground_drop";
const FULL = 60; // points of DSC that the heat's full colour stands for, as in the transfer matrix
const MOST_NARROW = 3; // models whose columns a telephone has room for
const DISTANCES = ["l2_body", "ssim_body"];

/** The progress of each store's grid. */
function progress(data) {
  const stores = new Map();
  for (const run of data.runs) stores.set(run.store, run);
  return [...stores.values()].map((run) => {
    const finished = run.done + run.failed;
    const beat = run.heartbeat ? `, last seen ${run.heartbeat.replace("T", " ").slice(0, 19)} UTC` : "";
    const text = `${run.store}: ${run.done.toLocaleString("en")} done, ${run.failed.toLocaleString("en")} failed${run.planned === null ? "" : ` of ${run.planned.toLocaleString("en")} planned`}, ${run.status ?? "status unknown"}${beat}`;
    const bar = run.planned
      ? h("progress", { max: String(run.planned), value: String(finished), "aria-label": text })
      : null;
    return h("div", { class: "progress" }, bar, h("span", {}, text));
  });
}

export function overview(panel, app) {
  const { data } = app;
  const { summary } = data;
  const texts = (name) => distinct(summary, name);
  const lead = pictures(data);
  const amounts = [
    data.cases && plural(data.cases.texts.case.values.length, "case"),
    data.cases && plural(data.cases.texts.patient.values.length, "patient"),
    plural(new Set([...texts("source"), ...texts("target")]).size, "model"),
    `${plural(texts("attack").length, "setting")} of attacks in ${plural(texts("threat").length, "threat model")}`,
  ];
  panel.append(
    lead.element,
    h("h3", {}, "What was run"),
    h("p", {}, `${plural(texts("dataset").length, "dataset")}, ${amounts.filter(Boolean).join(", ")}.`),
    ...progress(data),
    ...failureTables(data),
    h("details", {}, h("summary", {}, "How to read this"), h("ul", {}, data.notes.map((text) => h("li", {}, worded(text, ...texts("dataset")))))),
  );
  lead.update();
  return lead;
}

/** Shows the records behind a row of the summary: the table with its attack and models alone, and its cases. */
function openRows(data, row) {
  const { summary } = data;
  const cleared = Object.fromEntries(FILTERS.map(([name]) => [`f.${name}`, null]));
  const wanted = ["dataset", "source", "target", "base"].map((name) => [`f.${name}`, summary.text(name, row)]);
  const rest = { tab: "table", level: null, q: null, row: keyOf(data, "means", row) };
  state.set({ ...cleared, ...Object.fromEntries(wanted), ...rest }, { step: true });
}

/** The case that lost most under the strongest of the attacks of rows that have a glimpse; null without one. */
function worst(data, rows, open) {
  const { summary, glimpseOf } = data;
  const number = (name, row) => summary.number(name, row);
  const [row] = rows
    .filter((each) => glimpseOf.has(each) && !number("null", each) && !Number.isNaN(number(DROP, each)))
    .sort((a, b) => number(DROP, b) - number(DROP, a));
  if (row === undefined) return null;
  const dataset = summary.text("dataset", row);
  const [model, left, drop] = [summary.text("source", row), number("dsc_foreground", row), number(DROP, row)];
  const size = number("ssim_body", row);
  const cases = number("cases", row);
  const isSaved = data.jobs.some(({ text }) => text.includes("save_adversarial: nifti"));
  const more = data.volumes?.cases.length
    ? h("button", { type: "button", class: "link", onclick: () => state.set({ tab: "volumes" }, { step: true }) }, "All slices, in the viewer")
    : h(
        "span",
        { class: "hint" },
        ...(isSaved ? ["All slices: ", h("code", {}, "freqbench report OUT --open"), ", the page in a folder with the volumes."]
          : ["All slices: put ", h("code", {}, "save_adversarial: nifti"), " into the job; run it again."]),
      );
  return h(
    "section",
    { class: "lead-case", "aria-label": "worst case" },
    glimpseOf.get(row).slice ? wipe(data, row) : worstCase(data, row),
    h(
      "div",
      {},
      h("h2", {}, `Worst case: ${named(data, row)} on ${model}`),
      h("p", {}, `${lost(data, row)} of ${definition(data, dataset)}: the most under the strongest attack.`),
      h("p", {}, worded(`Mean over ${plural(cases, "case")}: foreground DSC ${shown(left, 1)}, ${shown(drop, 1)} less than clean`, dataset), Number.isNaN(size) ? "." : `, SSIM body ${shown(size, 1)}.`),
      paperOf(data, row, (paper) => h("p", { class: "hint" }, "Paper: ", paper)),
      named(data, row).endsWith(OWN) ? h("p", { class: "hint" }, `${OWN_NOTE}.`) : null,
      h("p", {}, h("button", { type: "button", class: "link", onclick: () => open(row) }, "All numbers of this attack")),
      h("p", {}, more),
    ),
  );
}

/** White-box rows as a heat map, as points against their distance, as sentences and as glimpses. */
function pictures(data) {
  const { summary } = data;
  const all = Array.from({ length: summary.rows }, (_, row) => row);
  const isOwn = (row) => summary.text("transfer", row) === "white-box" && !summary.number("minimal", row);
  const own = all.filter(isOwn);
  const known = DISTANCES.filter((name) => own.some((row) => !Number.isNaN(summary.number(name, row))));
  const open = (row) => openRows(data, row);
  const element = h("div", { class: "lead" });
  let [drawn, made] = [null, ""];

  function update() {
    const { dataset, source } = chosenPair(data);
    const distance = known.includes(state.get("lead")) ? state.get("lead") : known[0];
    if (made === JSON.stringify([dataset, source, distance])) return;
    made = JSON.stringify([dataset, source, distance]);
    drawn?.free();
    const rows = own.filter((row) => summary.text("dataset", row) === dataset);
    const models = [...new Set(rows.map((row) => summary.text("source", row)))].sort();
    const model = models.includes(source) ? source : models[0];
    const ofModel = rows.filter((row) => summary.text("source", row) === model);
    const { [distance]: x, [DROP]: y } = scoresOn(data, dataset);
    const title = `${model}: ${y.heading} against ${x?.heading}`;
    drawn = x ? tradeOff(data, byThreat(data, ofModel), x, y, { title, name: (family) => family, height: 340, open }) : null;
    const lead = worst(data, rows, open);
    const seen = data.glimpses.map(({ row }) => row).filter((row) => ofModel.includes(row));
    const said = data.findings.filter((each) => each.dataset === dataset);
    const sizes = data.smallest.filter(({ title }) => title.startsWith(`${dataset}: `));
    const choices = bar(models, model, distance);
    const isNarrow = innerWidth < 700 && models.length > MOST_NARROW; // then the table has the chosen model alone
    element.replaceChildren(
      ...(rows.length
        ? [
            lead ?? "",
            h(
              "div",
              { class: "charts" },
              h("div", {}, isNarrow && choices, heat(rows, isNarrow ? [model] : models, dataset)),
              h("div", {}, !isNarrow && choices, drawn?.figure),
            ),
            seen.length ? h("h3", {}, `The case of ${model} that lost most, attack by attack`) : "",
            seen.length ? h("p", { class: "hint" }, `Scores are ${definition(data, dataset)}, x100.`) : "",
            ...(seen.length ? strip(data, seen, open) : []),
            said.length ? h("h3", {}, "What was found") : "",
            h("ul", { class: "findings" }, said.map(({ row, text }) => sentence(text, row))),
          ]
        : sizes.length ? [] : [h("p", {}, "No volume was scored on the model that it was made on.")]),
      ...sizes.flatMap(readyTable),
    );
    drawn?.draw();
  }

  function sentence(text, row) {
    return h("li", {}, h("button", { type: "button", class: "link", onclick: () => open(row) }, text));
  }

  function bar(models, model, distance) {
    const datasets = distinct(summary, "dataset");
    const options = known.map((name) => [name, data.scoreOf[name].heading]);
    return h(
      "div",
      { class: "bar" },
      datasets.length > 1 ? choice("Dataset", datasets, chosenPair(data).dataset, (value) => state.set({ dataset: value })) : null,
      models.length > 1 ? choice("Model", models, model, (value) => state.set({ source: value })) : null,
      known.length > 1 ? choice("Distance", options, distance, (value) => state.set({ lead: value })) : null,
    );
  }

  function heat(rows, models, dataset) {
    const found = new Map(rows.map((row) => [`${summary.text("source", row)}\u0000${summary.text("attack", row)}`, row]));
    const cell = (model, attack) => {
      const row = found.get(`${model}\u0000${attack}`);
      if (row === undefined) return heatCell("", null, `not run: ${attack} on ${model}`);
      const [left, drop] = [summary.number("dsc_foreground", row), summary.number(DROP, row)];
      const kind = summary.number("null", row) ? "null" : "";
      const title = Number.isNaN(left)
        ? (summary.text("error", row) ?? "undefined on these volumes")
        : `${attack} on ${model}: ${shown(left, 1)} left, ${shown(drop, 1)} lost, n ${shown(summary.number("cases", row), 0)}`;
      return heatCell(shown(left, 1), drop / FULL, title, kind, () => open(row));
    };
    const mean = (members, name, why) => {
      const values = members.map((row) => summary.number(name, row)).filter((value) => !Number.isNaN(value));
      return heatCell(values.length ? shown(values.reduce((sum, value) => sum + value, 0) / values.length, 1) : "", null, values.length ? "mean over the models" : why);
    };
    const has = known.includes("ssim_body");
    const sections = byThreat(data, rows).map(([threat, members]) => {
      const attacks = [...new Set(members.map((row) => summary.text("attack", row)))];
      const lines = attacks.map((attack) => {
        const mine = members.filter((row) => summary.text("attack", row) === attack);
        const cells = models.map((model) => cell(model, attack));
        cells.push(mean(mine, DROP, "undefined on these volumes"));
        if (has) cells.push(mean(mine, "ssim_body", "not measured"));
        return [named(data, mine[0]), cells];
      });
      return [threatName(data, threat), lines];
    });
    const clean = models.map((model) => {
      const row = cleanRow(data, dataset, model);
      return heatCell(row < 0 ? "" : shown(data.clean.number("dsc_foreground", row), 1), null, `clean, ${model}`);
    });
    const notes = [
      rows.some((row) => summary.number("null", row)) && "Hatched: without optimisation.",
      rows.some((row) => named(data, row).endsWith(OWN)) && `${OWN_NOTE}.`,
    ];
    return [
      heatTable(
        worded("Foreground DSC that white-box attacks leave of each model; drop and size are means over the models", dataset),
        "attack", [...models, "drop", ...(has ? ["SSIM body"] : [])], [[null, [["clean", [...clean, h("td"), has ? h("td") : ""]]]], ...sections],
      ),
      legend("0", `a drop of ${FULL} points or more.`, notes.filter(Boolean).join(" ")),
    ];
  }

  fitForPrint(() => (drawn ? [drawn] : []));
  const restyle = () => {
    made = "";
    update();
  };
  return { element, update, restyle };
}

function failureTables(data) {
  const columns = (last) =>
    ["dataset", "source", "target", "attack", last, "reason"].map((heading) => ({ heading, number: heading === last }));
  const found = [];
  if (data.failures.length) {
    const lines = data.failures.map((each) => [
      each.dataset,
      each.source,
      each.target,
      each.attack,
      String(each.failed),
      each.reason ?? "no reason was stored",
    ]);
    found.push(h("h3", {}, "What failed"), table("Failed records and the first reason", columns("failed"), lines));
  }
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
