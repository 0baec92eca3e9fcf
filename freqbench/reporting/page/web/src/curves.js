// A score against the budget, and against the distance that it costs.

import { chart, fitForPrint, styleOf } from "./charts.js";
import { scoresOn, shown } from "./data.js";
import { choice, escaped, h, plural, reword } from "./dom.js";
import { chosen, filterBar } from "./filters.js";
import { byThreat, chosenPair, cleanRow, pairBar, rowsOfPair } from "./pair.js";
import * as state from "./state.js";
import { families, numbers, tradeOff } from "./tradeoff.js";

const SCORES = ["dsc_foreground", "dsc_foreground_drop", "hd95_penalised_mm", "dsc", "dsc_drop", "hd95"];
const DISTANCES = ["ssim", "ssim_body", "lpips", "lpips_body", "l2", "l2_body", "linf_255"];

/** Whether a model has two settings to compare on a dataset. */
export function hasCurves({ summary }) {
  const pairs = new Set();
  for (let row = 0; row < summary.rows; row += 1) {
    const pair = ["dataset", "source", "target"].map((name) => summary.text(name, row)).join("\u0000");
    if (pairs.has(pair)) return true;
    pairs.add(pair);
  }
  return false;
}

export function curves(panel, app) {
  const { data } = app;
  const { summary } = data;
  const some = (names) => names.filter((name) => summary.numbers[name].some((value) => !Number.isNaN(value)));
  const options = (names) => some(names).map((name) => [name, data.scoreOf[name].heading]);
  const pair = pairBar(data);
  const filters = filterBar(summary, ["threat", "base"]);
  const picked = (key, names) => (some(names).includes(state.get(key)) ? state.get(key) : (some(names)[0] ?? names[0]));
  const score = choice("Score", options(SCORES), picked("score", SCORES), (value) => state.set({ score: value }));
  const distance = choice("Distance", options(DISTANCES), picked("distance", DISTANCES), (value) =>
    state.set({ distance: value }),
  );
  const output = h("div", {});
  panel.append(pair.element, h("div", { class: "bar" }, score, distance, filters.element), output);
  let drawn = [];

  function update() {
    pair.update();
    filters.update();
    const scores = scoresOn(data, chosenPair(data).dataset);
    const y = scores[picked("score", SCORES)];
    const x = scores[picked("distance", DISTANCES)];
    reword(score, SCORES.map((name) => [name, scores[name].heading]));
    score.querySelector("select").value = y.name;
    distance.querySelector("select").value = x.name;
    const rows = rowsOfPair(data, chosen(["threat", "base"]));
    for (const each of drawn) each.free();
    const groups = byThreat(data, rows);
    const made = groups.map(([threat, members]) => budgetChart(threat, members, y, sharedRange(rows, y)));
    const budgets = made.filter(Boolean);
    const single = groups.flatMap(([threat], place) => (made[place] ? [] : [threat]));
    const trade = tradeOff(data, groups, x, y, {
      title: `${y.heading} against ${x.heading}`,
      name: (family, threat) => `${family} (${threat})`,
    });
    drawn = [...budgets, ...(trade ? [trade] : [])];
    output.replaceChildren(
      h("h3", {}, "Against the budget"),
      h(
        "p",
        {},
        "One chart a threat model, as budgets of different threat models are different quantities. ",
        single.length ? `Not drawn, as no attack was run at two budgets or more: ${single.join(", ")}.` : "",
      ),
      h(
        "div",
        { class: "charts" },
        budgets.map((each) => each.figure),
      ),
      h("h3", {}, `Trade-off: ${y.heading} against ${x.heading}`),
      h("p", {}, "What an attack breaks, and the distance it takes; attacks are comparable where their distances are."),
      trade ? trade.figure : h("p", {}, "Nothing to draw: no row has both numbers."),
    );
    for (const each of drawn) each.draw();
  }

  function clean(y) {
    const { dataset, target } = chosenPair(data);
    const row = cleanRow(data, dataset, target);
    return row < 0 || !data.clean.numbers[y.name] ? NaN : data.clean.number(y.name, row);
  }

  /** One scale for all budgets' charts, so that a small effect does not look large beside another. */
  function sharedRange(rows, y) {
    const values = [
      clean(y),
      ...rows.flatMap((row) => [
        summary.number(y.name, row),
        ...(y.name === "dsc_foreground" ? [summary.number("dsc_foreground_low", row), summary.number("dsc_foreground_high", row)] : []),
      ]),
    ];
    const known = values.filter((value) => !Number.isNaN(value));
    const [low, high] = [Math.min(...known), Math.max(...known)];
    const pad = 0.06 * Math.max(high - low, 1);
    return known.length ? [low - pad, high + pad] : null;
  }

  function budgetChart(threat, members, y, range) {
    const rows = members.filter(
      (row) => !Number.isNaN(summary.number("budget", row)) && !Number.isNaN(summary.number(y.name, row)),
    );
    const byFamily = [...families(data, rows)];
    const budgetsOf = (own) => new Set(own.map((row) => summary.number("budget", row))).size;
    if (!byFamily.some(([, own]) => budgetsOf(own) > 1)) return null;
    const unit = [...new Set(rows.map((row) => summary.text("budget_text", row).split("=")[0]))].join(", ");
    const isIntensity = rows.every((row) => /^(eps|std|linf)=/.test(summary.text("budget_text", row)));
    const factor = isIntensity ? 255 : 1;
    const low = (row) => summary.number("dsc_foreground_low", row);
    const traces = byFamily.map(([family, own]) => {
      own.sort((a, b) => summary.number("budget", a) - summary.number("budget", b));
      const { color, symbol, dash } = styleOf(data, family);
      const values = own.map((row) => summary.number(y.name, row));
      const hasBars = y.name === "dsc_foreground" && own.some((row) => !Number.isNaN(low(row)));
      return {
        type: "scatter",
        mode: own.length > 1 ? "lines+markers" : "markers",
        name: escaped(family),
        x: own.map((row) => factor * summary.number("budget", row)),
        y: values,
        line: { color, dash, width: 2 },
        marker: { color, symbol, size: 9 },
        error_y: hasBars
          ? {
              type: "data",
              symmetric: false,
              array: own.map((row, at) => summary.number("dsc_foreground_high", row) - values[at]),
              arrayminus: own.map((row, at) => values[at] - low(row)),
              thickness: 1.2,
              width: 3,
            }
          : undefined,
        text: own.map((row, at) => escaped(hoverText(row, y, values[at]))),
        hovertemplate: "%{text}<extra></extra>",
      };
    });
    const reference = clean(y);
    const shapes = Number.isNaN(reference)
      ? []
      : [
          {
            type: "line",
            xref: "paper",
            x0: 0,
            x1: 1,
            y0: reference,
            y1: reference,
            line: {
              width: 1,
              dash: "dot",
              color: getComputedStyle(document.documentElement).getPropertyValue("--muted").trim(),
            },
          },
        ];
    const values = rows.map((row) => summary.number(y.name, row));
    const line = Number.isNaN(reference) ? "" : ` The dotted line is clean: ${shown(reference, y.digits)}.`;
    return chart({
      title: `${threat}: ${y.heading} against ${unit}`,
      x: isIntensity ? `${unit} (1/255)` : unit,
      y: `${y.heading} (${y.unit})`,
      traces,
      shapes,
      range,
      fromZero: true,
      summary: `${plural(traces.length, "attack")}, ${y.heading} from ${shown(Math.min(...values), y.digits)} to ${shown(Math.max(...values), y.digits)}.${line}`,
      numbers: numbers(data, rows, [{ name: "budget", heading: unit, digits: 4 }, y]),
    });
  }

  function hoverText(row, y, value) {
    const [low, high] = [summary.number("dsc_foreground_low", row), summary.number("dsc_foreground_high", row)];
    const bounds = Number.isNaN(low) ? "too few patients for an interval" : `95 %: ${low.toFixed(1)} to ${high.toFixed(1)}`;
    const interval = y.name === "dsc_foreground" ? `, ${bounds}` : "";
    return `${summary.text("attack", row)}: ${y.heading} ${shown(value, y.digits)}${interval}, n ${shown(summary.number("cases", row), 0)}`;
  }

  update();
  fitForPrint(() => drawn);
  return { update, restyle: update };
}
