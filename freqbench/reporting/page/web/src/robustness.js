// Defences, certificates, and natural beside adversarial robustness: one chart a dataset, and ready tables.

import { chart, styleOf } from "./charts.js";
import { shown, worded } from "./data.js";
import { escaped, h, plural, readyTable, table } from "./dom.js";

export function robustness(panel, app) {
  const { tables, natural, bounds } = app.data;
  const charts = h("div", {});
  panel.append(
    charts,
    ...tables.flatMap(readyTable),
  );
  let drawn = [];
  const restyle = () => {
    drawn.forEach((each) => each.free());
    drawn = [...natural.map(dropChart), ...bounds.map(boundsChart)];
    charts.replaceChildren(...drawn.map((each) => each.figure));
    drawn.forEach((each) => each.draw());
  };
  restyle();
  return { update() {}, restyle };
}

/** Certified at least and attacked at most against the norm of the change, shaded between. */
function boundsChart({ dataset, model, kind, sigma, rows, cases }) {
  const radii = rows.map(({ radius }) => radius);
  const series = { certified: ["#E69F00", "s", "solid"], attacked: ["#56B4E9", "^", "solid"], clean: ["#000000", "o", "dotted"] };
  const names = { certified: "certified at least", attacked: "attacked at most", clean: "median without a change" };
  const traces = Object.keys(series).map((end) => {
    const { color, symbol, dash } = styleOf({ series }, end);
    return {
      type: "scatter",
      mode: "lines+markers",
      name: names[end],
      x: radii,
      y: rows.map((row) => row[end]),
      fill: end === "attacked" ? "tonexty" : "none", // down to the certified end, the trace before
      fillcolor: "rgba(128, 128, 128, 0.25)",
      line: { color, dash, width: 2 },
      marker: { color, symbol, size: 8 },
      text: rows.map((row) => escaped(`norm ${row.radius}: ${names[end]} ${shown(row[end] ?? NaN, 1)}`)),
      hovertemplate: "%{text}<extra></extra>",
    };
  });
  return chart({
    title: `${dataset}, ${model}: between certificate and attack, ${kind} of sigma ${sigma}`,
    x: "norm of the change",
    y: worded("foreground DSC", dataset),
    traces,
    fromZero: true,
    summary: `The truth lies in the shaded band; means over ${plural(cases, "case")}.`,
    numbers: table(
      "Numbers of the chart",
      ["norm", ...Object.values(names)].map((heading) => ({ heading, number: true })),
      rows.map((row) => [String(row.radius), ...Object.keys(names).map((end) => shown(row[end] ?? NaN, 1))]),
    ),
  });
}

/** Drop by corruption and attack: a line each, a point a model. */
function dropChart({ dataset, models, rows, drops, series, cases }) {
  const names = rows.map(([group, name]) => `${name} (${group})`);
  const traces = models.map((model) => {
    const { color, symbol } = styleOf({ series }, model);
    const known = [...names.keys()].filter((at) => drops[model][at]);
    const values = known.map((at) => drops[model][at]);
    return {
      type: "scatter",
      mode: "markers",
      name: escaped(model),
      x: values.map(([mean]) => mean),
      y: known.map((at) => escaped(names[at])),
      marker: { color, symbol, size: 9 },
      error_x: {
        type: "data",
        symmetric: false,
        array: values.map(([mean, , high]) => (high ?? mean) - mean),
        arrayminus: values.map(([mean, low]) => mean - (low ?? mean)),
        thickness: 1.2,
        width: 3,
        color,
      },
      text: values.map(([mean, low, high], place) => {
        const interval = low === null ? "" : `, 95 %: ${shown(low, 1)} to ${shown(high, 1)}`;
        return escaped(`${model}, ${names[known[place]]}: drop ${shown(mean, 1)}${interval}`);
      }),
      hovertemplate: "%{text}<extra></extra>",
    };
  });
  return chart({
    title: `${dataset}: natural beside adversarial robustness`,
    x: worded("DSC drop (points); of corruptions the mean over severities", dataset),
    y: "",
    traces,
    categories: names.map(escaped),
    height: 120 + 26 * rows.length,
    summary: `Drops of ${plural(models.length, "model")} on ${plural(cases, "case")}.`,
    numbers: table(
      "Numbers of the chart",
      [{ heading: "corruption or attack" }, ...models.map((model) => ({ heading: model, number: true }))],
      names.map((name, at) => [name, ...models.map((model) => shown(drops[model][at]?.[0] ?? NaN, 1))]),
    ),
  });
}
