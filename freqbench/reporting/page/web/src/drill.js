// A row's details in a dialog: every number with its reason where it is missing, its cases, and each case's classes.

import { commandOf, definition, headed, keyOf, reason, scoresOn, shown, worded } from "./data.js";
import { classCells, h, plural, table } from "./dom.js";
import { worstCase } from "./glimpses.js";
import { threatName } from "./pair.js";
import * as state from "./state.js";

const LISTED = 300;
let dialog = null;
let openKey = "";

function ensure() {
  if (dialog) return dialog;
  dialog = h("dialog", { class: "drill", "aria-labelledby": "drill-title" });
  dialog.addEventListener("close", () => {
    openKey = "";
    if (state.get("row")) state.set({ row: null }, { step: true });
  });
  document.body.append(dialog);
  return dialog;
}

/** Shows a row `{level, row}`, or closes the dialog where it is null. */
export function openRow(data, found) {
  const element = ensure();
  const key = found ? keyOf(data, found.level, found.row) + data.made_at : "";
  if (key === openKey) return;
  openKey = key;
  if (!found) {
    if (element.open) element.close();
    return;
  }
  const content = found.level === "cases" ? caseDetails(data, found.row) : meanDetails(data, found.row);
  element.replaceChildren(content);
  if (!element.open) element.showModal();
  element.scrollTop = 0;
  element.querySelector("h2").focus();
}

function head(title, rest) {
  const close = h("button", { type: "button", class: "close", onclick: () => dialog.close() }, "Close");
  return [h("div", { class: "drill-head" }, h("h2", { id: "drill-title", tabindex: "-1" }, title), close), rest];
}

/** Pairs [name, value]; `dataset` says what the score is called. */
function facts(pairs, dataset) {
  const known = pairs.filter(([, value]) => value !== null && value !== "");
  return h(
    "dl",
    { class: "facts" },
    known.map(([name, value]) => h("div", {}, h("dt", {}, worded(name, dataset)), h("dd", {}, value))),
  );
}

function setting(data, frame, row) {
  return [
    ["dataset", frame.text("dataset", row)],
    ["source", frame.text("source", row)],
    ["target", frame.text("target", row)],
    ["setting", frame.text("transfer", row)],
    ["threat model", threatName(data, frame.text("threat", row))],
  ];
}

/** All scores of a row; what is missing says why. */
function scoreTable(data, frame, row) {
  const lines = Object.values(scoresOn(data, frame.text("dataset", row))).map((score) => {
    const value = frame.number(score.name, row);
    const isMissing = Number.isNaN(value);
    return [
      { text: score.heading, title: score.meaning },
      shown(value, score.digits),
      score.unit,
      isMissing ? reason(data, frame, row, score.name) : score.direction && `${score.direction} is better`,
    ];
  });
  const columns = [
    { heading: "score" },
    { heading: "value", number: true },
    { heading: "unit" },
    { heading: "direction, or why it is empty" },
  ];
  return h("details", {}, h("summary", {}, "All scores, and why some are empty"), table("All scores", columns, lines));
}

function meanDetails(data, row) {
  const frame = data.summary;
  const low = frame.number("dsc_foreground_low", row);
  const high = frame.number("dsc_foreground_high", row);
  const dsc = shown(frame.number("dsc_foreground", row), 1);
  const pairs = [
    ...setting(data, frame, row),
    ["cases", shown(frame.number("cases", row), 0)],
    ["seeds", shown(frame.number("seeds", row), 0)],
    ["failed", shown(frame.number("failed", row), 0)],
    ["foreground DSC", Number.isNaN(low) ? dsc : `${dsc} (95 %: ${low.toFixed(1)} to ${high.toFixed(1)})`],
    ["drop", shown(frame.number("dsc_foreground_drop", row), 1)],
    ["HD95 penalised mm", shown(frame.number("hd95_penalised_mm", row), 1)],
    ["DSC with background", shown(frame.number("dsc", row), 1)],
    ["error", frame.text("error", row)],
  ];
  const body = [worstCase(data, row), facts(pairs, frame.text("dataset", row)), scoreTable(data, frame, row), classMeans(data, row), caseList(data, row)];
  return h("div", {}, head(frame.text("attack", row), body));
}

const classColumns = (dataset, ...rest) =>
  ["class", "DSC clean", "DSC", "drop", ...rest].map((name, place) => ({ heading: worded(name, dataset), number: place > 0 }));
const ABSENT = "the class is not in the label, so its score is undefined";
const NO_SURFACE = "no surface distance: the class is missing in the label or in the prediction, or was not asked for";

function valued(dataset, value, why) {
  return { text: shown(value, 1), title: Number.isNaN(value) ? worded(why, dataset) : null };
}

function classMeans(data, row) {
  const means = data.class_means;
  const [begin, end] = data.meanSpans?.[row] ?? [0, 0];
  const dataset = data.summary.text("dataset", row);
  if (begin === end) return h("p", { class: "hint" }, worded("No values of single classes.", dataset));
  const classCell = classCells(data, dataset);
  const lines = [];
  for (let at = begin; at < end; at += 1) {
    const value = (name) => means.numbers[name][at];
    lines.push([
      classCell(value("class")),
      valued(dataset, value("dsc_clean"), ABSENT),
      valued(dataset, value("dsc"), ABSENT),
      valued(dataset, value("dsc_drop"), ABSENT),
      valued(dataset, value("hd95_mm"), NO_SURFACE),
      shown(value("cases"), 0),
    ]);
  }
  return table(worded("Mean of each class", dataset), classColumns(dataset, "HD95 mm", "n"), lines);
}

function caseList(data, row) {
  if (!data.cases) return h("p", { class: "hint" }, data.omitted.cases ?? "Single cases are not in this page.");
  const [begin, end] = data.caseSpans[row];
  const dataset = data.summary.text("dataset", row);
  const names = ["dsc_foreground", "dsc_foreground_drop", "hd95_penalised_mm", "dsc", "hd95"];
  const scores = [...names, "ssim", "lpips", "linf_255", "l2_body"].map(
    (name) => scoresOn(data, dataset)[name],
  );
  const lines = [];
  for (let at = begin; at < Math.min(end, begin + LISTED); at += 1) {
    const seed = shown(data.cases.number("seed", at), 0);
    const open = h(
      "button",
      { type: "button", class: "link", onclick: () => state.set({ row: keyOf(data, "cases", at) }, { step: true }) },
      data.cases.text("case", at) ?? "",
    );
    const numbers = scores.map((score) => {
      const value = data.cases.number(score.name, at);
      return {
        text: shown(value, score.digits),
        title: Number.isNaN(value) ? reason(data, data.cases, at, score.name) : null,
      };
    });
    lines.push([
      open,
      seed,
      data.cases.text("error", at) ? { text: "failed", title: data.cases.text("error", at) } : "ok",
      ...numbers,
    ]);
  }
  const columns = [
    { heading: "case" },
    { heading: "seed", number: true },
    { heading: "status" },
    ...scores.map((score) => ({ heading: headed(score), number: true, title: score.meaning })),
  ];
  const rest =
    end - begin > LISTED
      ? h("p", {}, `and ${plural(end - begin - LISTED, "more case")}: choose "single cases" in the table`)
      : null;
  return [table(worded("Cases (open one for its classes)", dataset), columns, lines), rest];
}

function caseDetails(data, row) {
  const frame = data.cases;
  const parent = frame.numbers.row[row];
  const dsc = shown(frame.number("dsc_foreground", row), 1);
  const back = h(
    "button",
    { type: "button", class: "link", onclick: () => state.set({ row: keyOf(data, "means", parent) }, { step: true }) },
    frame.text("attack", row),
  );
  const pairs = [
    ["attack", back],
    ...setting(data, frame, row),
    ["patient", frame.text("patient", row)],
    ["seed", shown(frame.number("seed", row), 0)],
    ["status", frame.text("status", row)],
    ["error", frame.text("error", row)],
    ["foreground DSC", dsc && `${dsc} (${definition(data, frame.text("dataset", row))})`],
    ["DSC with background", shown(frame.number("dsc", row), 1)],
    ["missed classes", shown(frame.number("missed_classes", row), 0)],
    ["hallucinated classes", shown(frame.number("hallucinated_classes", row), 0)],
    ["run", frame.text("run", row)],
    ["row", frame.text("id", row)],
  ];
  const body = [facts(pairs, frame.text("dataset", row)), reproduction(data, row), caseClasses(data, row), scoreTable(data, frame, row)];
  return h("div", {}, head(`Case ${frame.text("case", row)}`, body));
}

/** The command that computes a record again, beside its scores; a failed one has nothing to compare. */
function reproduction(data, row) {
  const command = commandOf(data, row);
  if (!command) return null;
  return h("p", { class: "reproduce" }, "Reproduce: ", h("code", {}, command));
}

function caseClasses(data, row) {
  const dataset = data.cases.text("dataset", row);
  const missing = (why) => h("p", { class: "hint" }, worded(why, dataset));
  if (!data.case_classes) return missing(data.omitted.case_classes ?? "No values of single classes.");
  const count = data.cases.numbers.classes[row];
  if (!count) return missing("This record has no values of single classes.");
  const begin = data.classStarts[row];
  const classCell = classCells(data, dataset);
  const [first, last] = data.cleanSpans[data.cases.numbers.clean[row]] ?? [0, 0];
  const clean = new Map();
  for (let at = first; at < last; at += 1) clean.set(data.clean_classes.numbers.class[at], at);
  const lines = [];
  for (let at = begin; at < begin + count; at += 1) {
    const index = data.case_classes.numbers.class[at];
    const before = (name) => (clean.has(index) ? data.clean_classes.numbers[name][clean.get(index)] : NaN);
    const dsc = data.case_classes.numbers.dsc[at];
    lines.push([
      classCell(index),
      valued(dataset, before("dsc"), ABSENT),
      valued(dataset, dsc, ABSENT),
      valued(dataset, before("dsc") - dsc, ABSENT),
      valued(dataset, before("hd95_mm"), NO_SURFACE),
      valued(dataset, data.case_classes.numbers.hd95_mm[at], NO_SURFACE),
      shown(before("label_voxels"), 0),
    ]);
  }
  return table(worded("Each class", dataset), classColumns(dataset, "HD95 mm clean", "HD95 mm", "label voxels"), lines);
}
