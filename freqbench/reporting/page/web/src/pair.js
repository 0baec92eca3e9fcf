// The choice of dataset, source and target that charts and matrices share; it stands in the URL.

import { choice, h } from "./dom.js";
import { distinct } from "./rows.js";
import * as state from "./state.js";

/** The first row's texts stand for what was not chosen; a choice that the data lacks is not one. */
export function chosenPair(data) {
  const { summary } = data;
  const pick = (name, key) => (summary.texts[name]?.values.includes(state.get(key)) ? state.get(key) : null);
  const dataset = pick("dataset", "dataset") ?? (summary.rows ? summary.text("dataset", 0) : "");
  const rows = Array.from({ length: summary.rows }, (_, row) => row).filter(
    (row) => summary.text("dataset", row) === dataset,
  );
  const first = (name) => (rows.length ? summary.text(name, rows[0]) : "");
  const source = pick("source", "source") ?? first("source");
  const own = rows.some((row) => summary.text("source", row) === source && summary.text("target", row) === source);
  const target = pick("target", "target") ?? (own ? source : first("target"));
  return { dataset, source, target, rows };
}

export function pairBar(data, names = ["dataset", "source", "target"]) {
  const now = chosenPair(data);
  const labels = { dataset: "Dataset", source: "Source", target: "Target" };
  const controls = names.map((name) => [
    name,
    choice(labels[name], distinct(data.summary, name), now[name], (value) => state.set({ [name]: value })),
  ]);
  const element = h(
    "div",
    { class: "bar" },
    controls.map(([, control]) => control),
  );
  const update = () => {
    const pair = chosenPair(data);
    for (const [name, control] of controls) control.querySelector("select").value = pair[name];
  };
  return { element, update };
}

/** Rows of one pair that pass some filters. */
export function rowsOfPair(data, filters) {
  const { source, target, rows } = chosenPair(data);
  const { summary } = data;
  return rows.filter(
    (row) =>
      summary.text("source", row) === source &&
      summary.text("target", row) === target &&
      Object.entries(filters).every(([name, texts]) => !texts.length || texts.includes(summary.text(name, row))),
  );
}

/** The row of `clean` of a dataset and target, or -1. */
export function cleanRow(data, dataset, target) {
  for (let row = 0; row < data.clean.rows; row += 1) {
    if (data.clean.text("dataset", row) === dataset && data.clean.text("target", row) === target) return row;
  }
  return -1;
}

/** A threat model's name, with that in words. */
export function threatName(data, threat) {
  return data.threats[threat] ? `${threat}: ${data.threats[threat]}` : threat;
}

export function byThreat(data, rows) {
  const groups = new Map();
  for (const row of rows) {
    const threat = data.summary.text("threat", row);
    if (!groups.has(threat)) groups.set(threat, []);
    groups.get(threat).push(row);
  }
  return [...groups].sort(([a], [b]) => a.localeCompare(b));
}
