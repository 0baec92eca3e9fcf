// Versions, hashes, checkpoints, seeds, warnings, and what to keep in mind.

import { byKind, scoresOn, shown } from "./data.js";
import { h, plural, table } from "./dom.js";
import { distinct } from "./rows.js";

const text = (value) =>
  value === null || value === undefined ? "" : typeof value === "object" ? JSON.stringify(value) : String(value);

export function runFacts(panel, app) {
  const { data } = app;
  const datasets = distinct(data.summary, "dataset");
  panel.append(
    h("h3", {}, "Keep in mind"),
    h("ul", {}, data.cautions.map((each) => h("li", {}, each))),
    h("details", {}, h("summary", {}, "What each column is"), table(
      "What the numbers are",
      ["heading", "column", "unit", "better", "meaning"].map((heading) => ({ heading })),
      Object.values(scoresOn(data, ...datasets)).map((score) => [score.heading, score.name, score.unit, score.direction, score.meaning]),
      { class: "prose" },
    )),
    ...byKind(data.clean, [...Array(data.clean.rows).keys()]).map((rows) => cleanTable(data, rows)),
    ...data.runs.map(runSection),
    ...data.jobs.map((job) =>
      h("details", { class: "job" }, h("summary", {}, `Job ${job.name} of ${job.store}`), h("pre", { tabindex: "0" }, job.text)),
    ),
    h("p", { class: "hint" }, `Made ${data.made_at} by freqbench ${data.version}.`),
  );
  return { update() {} };
}

function cleanTable(data, rows) {
  const { clean } = data;
  const dataset = clean.text("dataset", rows[0]);
  const scores = ["dsc_foreground", "hd95_penalised_mm", "dsc", "hd95"].map((name) => scoresOn(data, dataset)[name]);
  const missing = "not measured, or undefined on these volumes";
  const cell = (score, row) => {
    const value = clean.number(score.name, row);
    return { text: shown(value, score.digits), title: Number.isNaN(value) ? missing : null };
  };
  return table(
    "Clean predictions",
    [{ heading: "dataset" }, { heading: "model" }, ...["n", ...scores.map((score) => score.heading)].map((heading) => ({ heading, number: true }))],
    rows.map((row) => [clean.text("dataset", row), clean.text("target", row), shown(clean.number("cases", row), 0), ...scores.map((score) => cell(score, row))]),
  );
}

function runSection(run) {
  const code = run.code ? `${run.code.commit ?? "unknown"}${run.code.dirty ? ", with uncommitted changes" : ""}` : "";
  const facts = [
    ["store", run.store],
    ["status", run.status],
    ["started", run.started_at],
    ["last seen", run.heartbeat],
    ["code", code],
    ["host", run.host],
    ["devices", (run.devices ?? []).join("; ")],
    [
      "engine",
      run.engine
        ? Object.entries(run.engine)
            .map(([name, value]) => `${name} ${text(value)}`)
            .join(", ")
        : "",
    ],
    ["seeds", (run.seeds ?? []).join(", ")],
    ["datasets", run.datasets.map((each) => `${each.name} (${plural(each.cases, "case")})`).join(", ")],
    [
      "versions",
      Object.entries(run.versions ?? {})
        .map(([name, value]) => `${name} ${text(value)}`)
        .join(", "),
    ],
  ].filter(([, value]) => value);
  const models = run.models.map((model) => [
    text(model.name),
    text(model.id),
    text(model.checkpoint),
    text(model.sha256),
    text(model.migration),
  ]);
  const columns = ["model", "id", "checkpoint", "sha256", "migration"].map((heading) => ({ heading }));
  const warnings = run.warnings ?? [];
  return h(
    "section",
    { class: "run" },
    h("h3", {}, `Run ${run.run_id}`),
    h(
      "dl",
      { class: "facts wide" },
      facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, text(value)))),
    ),
    models.length ? table("Models and checkpoints", columns, models, { class: "code" }) : null,
    warnings.length
      ? [
          h("h4", {}, "Warnings"),
          h(
            "ul",
            {},
            warnings.map((each) => h("li", {}, text(each))),
          ),
        ]
      : h("p", {}, "No warnings."),
  );
}
