// Which attack breaks which organ or region: attacks x classes.

import { shown, worded } from "./data.js";
import { choice, h, reword } from "./dom.js";
import { chosen, filterBar } from "./filters.js";
import { heatCell, heatTable, legend } from "./heat.js";
import { byThreat, chosenPair, pairBar, rowsOfPair } from "./pair.js";
import { distinct } from "./rows.js";
import * as state from "./state.js";

const VIEWS = [
  ["dsc_drop", "drop in points of DSC"],
  ["dsc", "DSC that is left"],
  ["hd95_mm", "HD95 in mm"],
];

export function organs(panel, app) {
  const { data } = app;
  const { summary } = data;
  if (!data.class_means) {
    panel.append(h("p", {}, worded(data.omitted.class_means, ...distinct(summary, "dataset"))));
    return { update() {} };
  }
  const pair = pairBar(data);
  const filters = filterBar(summary, ["threat", "base"]);
  const kind = () => (VIEWS.some(([name]) => name === state.get("organs")) ? state.get("organs") : "dsc_drop");
  const view = choice("Show", VIEWS, kind(), (value) => state.set({ organs: value }));
  const output = h("div", {});
  panel.append(pair.element, h("div", { class: "bar" }, view, filters.element), output);

  function update() {
    pair.update();
    filters.update();
    view.querySelector("select").value = kind();
    const { dataset, source, target } = chosenPair(data);
    const views = VIEWS.map(([name, text]) => [name, worded(text, dataset)]);
    reword(view, views);
    const rows = rowsOfPair(data, chosen(["threat", "base"]));
    const classes = data.classes[dataset] ?? [];
    if (!rows.length || !classes.length)
      return output.replaceChildren(h("p", {}, "No attack was run on this choice of models."));
    const what = views.find(([name]) => name === kind())[1];
    const ends = { dsc_drop: ["0", "80 or more"], dsc: ["100", "0"], hd95_mm: ["0", "60 or more"] }[kind()];
    const sections = byThreat(data, rows).map(([threat, members]) => [
      `threat model: ${threat}`,
      members.map((row) => [summary.text("attack", row), cells(row, classes, dataset)]),
    ]);
    const first = cleanSection(rows[0], classes, dataset);
    output.replaceChildren(
      heatTable(
        `${what[0].toUpperCase()}${what.slice(1)}, ${source} to ${target} on ${dataset}: mean over cases where it is defined`,
        "attack",
        classes.map(([, name]) => name),
        first ? [first, ...sections] : sections,
      ),
      legend(...ends, what),
    );
  }

  function values(row, name) {
    const [begin, end] = data.meanSpans[row] ?? [0, 0];
    const found = new Map();
    for (let at = begin; at < end; at += 1)
      found.set(data.class_means.numbers.class[at], data.class_means.numbers[name][at]);
    return found;
  }

  function cells(row, classes, dataset) {
    const found = values(row, kind());
    const share = { dsc_drop: (value) => value / 80, dsc: (value) => 1 - value / 100, hd95_mm: (value) => value / 60 }[
      kind()
    ];
    return classes.map(([index, name]) => {
      const value = found.get(index) ?? NaN;
      const text = shown(value, 1);
      const why = !found.has(index)
        ? (summary.text("error", row) ?? "no record has this class")
        : kind() === "hd95_mm"
          ? "no surface distance: missed in every case, or HD95 was not asked for"
          : "the class is in no label";
      return heatCell(text, share(value), text ? `${name}: ${text}` : worded(why, dataset));
    });
  }

  /** The clean DSC of each class, where DSC is shown. */
  function cleanSection(row, classes, dataset) {
    if (kind() !== "dsc") return null;
    const found = values(row, "dsc_clean");
    const line = classes.map(([index, name]) => {
      const text = shown(found.get(index) ?? NaN, 1);
      return heatCell(
        text,
        1 - (found.get(index) ?? NaN) / 100,
        text ? `${name}: ${text}` : worded("the class is in no label", dataset),
      );
    });
    return [null, [["clean", line]]];
  }

  update();
  return { update };
}
