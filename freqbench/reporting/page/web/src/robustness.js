// Defences, certificates, and natural beside adversarial robustness: one chart a dataset, and ready tables.

import { chart, styleOf } from "./charts.js";
import { shown, worded } from "./data.js";
import { escaped, h, plural, table } from "./dom.js";

export function robustness(panel, app) {
  const { tables, natural } = app.data;
  if (!tables.length) {
    panel.append(h("p", {}, "No model here has a defence, and no volume was corrupted."));
    return { update() {} };
  }
  const charts = h("div", {});
  panel.append(
    charts,
    ...tables.flatMap(({ title, text, columns, rows }) => [
      h("h3", {}, title),
      text && h("p", {}, text),
      rows.length ? table(title, columns, rows) : "",
    ]),
  );
  let drawn = [];
  const free = () => drawn.forEach((each) => each.free());
  const restyle = () => {
    free();
    drawn = natural.map(dropChart);
    charts.replaceChildren(...drawn.map((each) => each.figure));
    drawn.forEach((each) => each.draw());
  };
  restyle();
  return { update() {}, restyle, free };
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
