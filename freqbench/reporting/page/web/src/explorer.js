// The table explorer: filter, sort, open a row, download what is shown.

import { download } from "./csv.js";
import { agrees, findKey, headed, keyOf, reason, scoresOn, shown, worded } from "./data.js";
import { choice, h, plural, table } from "./dom.js";
import { openRow } from "./drill.js";
import { chosen, filterBar } from "./filters.js";
import { makeGrid } from "./grid.js";
import { wrapped } from "./labels.js";
import { distinct, grouped, passing, sorted } from "./rows.js";
import * as state from "./state.js";

const PRINTED = 500;
const TEXTS = {
  means: ["attack", "threat", "dataset", "source", "target"],
  cases: ["attack", "threat", "dataset", "source", "target", "case"],
};
const HEADINGS = {
  attack: "attack",
  threat: "threat model",
  dataset: "dataset",
  source: "source",
  target: "target",
  case: "case",
};
const [LETTER, LINE, PADDING] = [7.5, 18, 32]; // of a cell's text, in pixels
const MOST_WIDE = { attack: 420, threat: 210, dataset: 150, source: 150, target: 150, case: 150 };
const [LEAST_WIDE, NARROW] = [80, 150];
const COUNTS = [
  { name: "cases", heading: "n", digits: 0, meaning: "cases with a result", least: 0 },
  {
    name: "seeds",
    heading: "seeds",
    digits: 0,
    meaning: "seeds of the draws; empty where the attack draws nothing",
    least: 2,
  },
  { name: "failed", heading: "failed", digits: 0, meaning: "records that failed", least: 1 },
];

export function explorer(panel, app) {
  const { data } = app;
  const level = () => (state.get("level") === "cases" && data.cases ? "cases" : "means");
  const frame = () => (level() === "cases" ? data.cases : data.summary);
  const isGrouped = () => state.get("group") !== "no";
  /** Datasets in sight; of both kinds: their rows stand apart, and headings name both scores. */
  const datasets = () => {
    const { dataset } = chosen(["dataset"]);
    return dataset.length ? dataset : distinct(data.summary, "dataset");
  };
  const isMixed = () => new Set(datasets().map(agrees)).size > 1;
  const scores = Object.values(scoresOn(data, ...distinct(data.summary, "dataset"))).filter((score) => data.summary.numbers[score.name]?.some((value) => !Number.isNaN(value)));
  const shownScores = () => {
    const names = state.all("cols");
    return scores.filter((score) => (names.length ? names.includes(score.name) : score.shown));
  };
  const interval = { name: "interval", heading: "95 % interval", digits: 1 };
  const hasIntervals = data.summary.numbers.dsc_foreground_low?.some((value) => !Number.isNaN(value));
  const counts = COUNTS.filter(({ name, least }) => data.summary.numbers[name].some((value) => value >= least));
  const numeric = () => {
    const named = scoresOn(data, ...datasets());
    return [...(level() === "means" ? counts : []), ...shownScores().map(({ name }) => named[name])];
  };
  const isOne = (name) => innerWidth < 700 && data.summary.texts[name]?.values.length === 1;
  const texts = () => TEXTS[level()].filter((name) => !(name === "threat" && isGrouped()) && !isOne(name));

  const bar = filterBar(data.summary);
  const search = h("input", {
    type: "search",
    placeholder: "search names",
    "aria-label": "search attacks, models, datasets and cases",
    value: state.get("q"),
    oninput: (event) => state.set({ q: event.target.value }),
  });
  const levels = data.cases
    ? choice(
        "Rows",
        [
          ["means", "means over cases"],
          ["cases", "single cases"],
        ],
        level(),
        (value) => state.set({ level: value === "means" ? null : value }),
      )
    : null;
  const group = h("input", {
    type: "checkbox",
    checked: isGrouped(),
    onchange: (event) => state.set({ group: event.target.checked ? null : "no" }),
  });
  const columnMenu = columnsMenu(scores, shownScores);
  const save = h("button", { type: "button", onclick: () => saveCsv() }, "Download CSV");
  const status = h("p", { class: "status", role: "status" });
  const caution = h(
    "p",
    { class: "caution" },
    "Threat models are mixed here: do not rank rows by their score alone, read the distances in the same row.",
  );
  const box = h("div", { class: "grid" });
  const print = h("div", { class: "print-only" });
  panel.append(
    bar.element,
    h(
      "div",
      { class: "bar" },
      search,
      levels,
      h("label", { class: "check" }, group, "group by threat model"),
      columnMenu.element,
      save,
    ),
    status,
    caution,
    box,
    print,
    h(
      "p",
      { class: "hint" },
      "Enter or a click on a row opens its details. Arrow keys move between cells; a heading sorts. An empty cell says why when you point at it, and in the details.",
    ),
  );
  const grid = makeGrid(box, [], "results", {
    open: (row) => state.set({ row: keyOf(data, level(), row) }, { step: true }),
    sort: (name, isDescending) => state.set({ sort: name ? `${name}:${isDescending ? "desc" : "asc"}` : null }),
  });

  let list = new Int32Array();
  let headings = [];
  let columnKey = "";
  let rowsKey = "";

  function text(entry, name) {
    if (entry < 0) return name === texts()[0] ? headings[-1 - entry] : "";
    return frame().text(name, entry) ?? "";
  }
  function number(entry, column) {
    return entry < 0 ? "" : shown(frame().number(column.name, entry), column.digits);
  }
  function intervalText(entry) {
    if (entry < 0) return "";
    const [low, high] = [frame().number("dsc_foreground_low", entry), frame().number("dsc_foreground_high", entry)];
    return Number.isNaN(low) ? "" : `${low.toFixed(1)} to ${high.toFixed(1)}`;
  }
  function why(entry, column) {
    if (entry < 0 || !Number.isNaN(frame().number(column.name, entry))) return null;
    return data.scoreOf[column.name] ? `empty: ${reason(data, frame(), entry, column.name)}` : null;
  }
  const isNarrow = () => innerWidth < 700;
  const longest = (name) => frame().texts[name].values.reduce((most, value) => Math.max(most, value.length), 0);
  /** A column has room for its longest text, in several lines if that is too wide. */
  function widthOf(name) {
    const most = isNarrow() ? Math.min(MOST_WIDE[name], NARROW) : MOST_WIDE[name];
    return Math.min(most, Math.max(LEAST_WIDE, PADDING + LETTER * longest(name)));
  }
  function rowHeight() {
    const lines = texts().flatMap((name) => {
      const letters = Math.floor((widthOf(name) - PADDING) / LETTER);
      const needed = (text) => wrapped(text, letters).reduce((sum, line) => sum + Math.ceil(line.length / letters), 0);
      return frame().texts[name].values.map(needed);
    });
    const most = lines.reduce((a, b) => Math.max(a, b), 1);
    return most > 1 ? LINE * most + 14 : null;
  }
  function definitions() {
    const named = texts().map((name, place) => ({
      colId: name,
      headerName: HEADINGS[name],
      width: widthOf(name),
      cellClass: "name",
      wrapText: true,
      pinned: place === 0 && !isNarrow() ? "left" : null,
      valueGetter: ({ data: cell }) => (cell ? text(cell.entry, name) : ""),
      tooltipValueGetter: ({ data: cell }) => (cell ? text(cell.entry, name) : null),
    }));
    const columns = numeric().map((column) => ({
      colId: column.name,
      headerName: headed(column),
      headerTooltip: [
        column.meaning,
        column.unit && `(${column.unit})`,
        column.direction && `${column.direction} is better`,
      ]
        .filter(Boolean)
        .join(" "),
      width: Math.max(76, 34 + 9 * headed(column).length),
      cellClass: "number",
      headerClass: "number",
      valueGetter: ({ data: cell }) => (cell ? number(cell.entry, column) : ""),
      tooltipValueGetter: ({ data: cell }) => (cell ? why(cell.entry, column) : null),
      cellClassRules: { missing: ({ data: cell }) => cell && why(cell.entry, column) !== null },
    }));
    if (hasIntervals && level() === "means") {
      const place = columns.findIndex((column) => column.colId === "dsc_foreground");
      if (place >= 0)
        columns.splice(place + 1, 0, {
          colId: interval.name,
          headerName: interval.heading,
          headerTooltip: worded("95 % interval of the mean foreground DSC over patients, not corrected for the number of rows", ...datasets()),
          width: 120,
          sortable: false,
          cellClass: "number",
          valueGetter: ({ data: cell }) => (cell ? intervalText(cell.entry) : ""),
        });
    }
    return [...named, ...columns];
  }
  /** The list with its headings: threat models, and kinds of score where rows of both are in sight. */
  function listed(found) {
    if (!isGrouped() && !isMixed()) return { list: Int32Array.from(found), headings: [] };
    const { dataset, threat } = frame().texts;
    const texts = dataset.values.map((name) =>
      threat.values.map((model) =>
        isMixed() ? worded("DSC", name) + (isGrouped() ? `, ${model}` : "") : `threat model: ${model}`,
      ),
    );
    return grouped(found, (row) => texts[dataset.codes[row]][threat.codes[row]]);
  }
  function rows() {
    const [name, direction] = state.get("sort").split(":");
    const found = passing(frame(), chosen(), state.get("q"));
    return sorted(frame(), found, name, direction === "desc");
  }
  function update() {
    bar.update();
    columnMenu.update();
    if (document.activeElement !== search) search.value = state.get("q");
    if (levels) levels.querySelector("select").value = level();
    group.checked = isGrouped();
    const newColumns = JSON.stringify([level(), isGrouped(), state.all("cols"), datasets()]);
    const newRows = JSON.stringify([newColumns, chosen(), state.get("q"), state.get("sort")]);
    const [name, direction] = state.get("sort").split(":");
    if (newColumns !== columnKey) grid.setColumns(definitions(), rowHeight());
    if (newRows !== rowsKey) {
      grid.sortBy(name, direction === "desc");
      const found = rows();
      ({ list, headings } = listed(found));
      grid.show(list);
      const of = found.length === frame().rows ? "" : ` of ${frame().rows.toLocaleString("en")}`;
      status.textContent = `${plural(found.length, "row")}${of}${level() === "means" ? ", each a mean over cases" : ", each one case"}`;
      const threats = new Set(Array.from(found.subarray(0, 5000), (row) => frame().texts.threat.codes[row]));
      caution.hidden = isGrouped() || threats.size < 2;
    }
    [columnKey, rowsKey] = [newColumns, newRows];
    const opened = state.get("row") ? findKey(data, state.get("row")) : null;
    openRow(data, opened);
  }
  function saveCsv() {
    const numbers = numeric();
    const withInterval = hasIntervals && level() === "means" ? ["dsc_foreground_low", "dsc_foreground_high"] : [];
    const names = level() === "cases" ? [...TEXTS.cases, "id"] : TEXTS.means; // `audit OUT --rows ID`
    const head = [...names, ...numbers.map((column) => column.name), ...withInterval];
    const entries = Array.from(list).filter((entry) => entry >= 0);
    const lines = entries.map((entry) => [
      ...names.map((name) => frame().text(name, entry)),
      ...numbers.map((column) => frame().number(column.name, entry)),
      ...withInterval.map((name) => frame().number(name, entry)),
    ]);
    download(`freqbench-${level()}.csv`, head, lines);
  }
  addEventListener(
    "beforeprint",
    () => {
      const entries = Array.from(list.subarray(0, PRINTED));
      const columns = [
        ...texts().map((name) => ({ heading: HEADINGS[name] })),
        ...numeric().map((column) => ({ heading: headed(column), number: true })),
      ];
      const cells = (entry) => [
        ...texts().map((name) => text(entry, name)),
        ...numeric().map((column) => number(entry, column)),
      ];
      const lines = entries.map((entry) => (entry < 0 ? text(entry, texts()[0]) : cells(entry)));
      const rest =
        list.length > PRINTED ? h("p", {}, `and ${(list.length - PRINTED).toLocaleString("en")} more rows`) : null;
      print.replaceChildren(table("Results", columns, lines), rest ?? "");
    },
  );
  addEventListener("afterprint", () => print.replaceChildren());
  update();
  return { update };
}

/** The menu that shows and hides columns of numbers. */
function columnsMenu(scores, shownScores) {
  const boxes = scores.map((score) =>
    h(
      "label",
      { class: "option", title: score.meaning },
      h("input", { type: "checkbox", value: score.name, onchange: () => change() }),
      h("span", {}, score.heading),
    ),
  );
  const change = () => {
    const names = boxes
      .map((each) => each.firstChild)
      .filter((box) => box.checked)
      .map((box) => box.value);
    const usual = scores.filter((score) => score.shown).map((score) => score.name);
    state.set({ cols: names.join() === usual.join() ? [] : names });
  };
  const element = h(
    "details",
    { class: "menu" },
    h("summary", {}, "Columns"),
    h("fieldset", {}, h("legend", { class: "sr" }, "columns"), boxes),
  );
  const update = () => {
    const now = new Set(shownScores().map((score) => score.name));
    for (const each of boxes) each.firstChild.checked = now.has(each.firstChild.value);
  };
  return { element, update };
}
