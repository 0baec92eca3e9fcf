// What attacks break against the distance that it takes: one point a setting, a line through those of one family.

import { chart, styleOf } from "./charts.js";
import { shown } from "./data.js";
import { escaped, plural, table } from "./dom.js";

/** Rows by family: the attack without its budget. */
export function families(data, rows) {
  const found = new Map();
  for (const row of rows) {
    const name = data.summary.text("family", row);
    if (!found.has(name)) found.set(name, []);
    found.get(name).push(row);
  }
  return found;
}

/** The numbers of a chart as a table. */
export function numbers(data, rows, columns) {
  const heads = [{ heading: "attack" }, ...columns.map((column) => ({ heading: column.heading, number: true }))];
  return table(
    "Numbers of the chart",
    heads,
    rows.map((row) => [
      data.summary.text("attack", row),
      ...columns.map((column) => shown(data.summary.number(column.name, row), column.digits)),
    ]),
  );
}

/** A chart of scores y against x of rows in groups [threat model, rows], or null where no row has both.
 * `name` of a family in its threat model; `open` is told the row of a point that is clicked. */
export function tradeOff(data, groups, x, y, { title, name, height = 460, open = null }) {
  const { summary } = data;
  const isKnown = (row) => !Number.isNaN(summary.number(x.name, row)) && !Number.isNaN(summary.number(y.name, row));
  const rows = groups.flatMap(([, members]) => members).filter(isKnown);
  if (!rows.length) return null;
  const traces = groups.flatMap(([threat, members]) =>
    [...families(data, members.filter(isKnown))].map(([family, own]) => {
      const { color, symbol, dash } = styleOf(data, family);
      own.sort((a, b) => summary.number("budget", a) - summary.number("budget", b));
      return {
        type: "scatter",
        mode: own.length > 1 ? "lines+markers" : "markers",
        name: escaped(name(family, threat)),
        x: own.map((row) => summary.number(x.name, row)),
        y: own.map((row) => summary.number(y.name, row)),
        line: { color, dash, width: 1.5 },
        marker: summary.number("null", own[0])
          ? { color, symbol: `${symbol}-open`, size: 10, line: { width: 2 } }
          : { color, symbol, size: 10 },
        customdata: own,
        text: own.map((row) =>
          escaped(
            `${summary.text("attack", row)}: ${y.heading} ${shown(summary.number(y.name, row), y.digits)}, ${x.heading} ${shown(summary.number(x.name, row), x.digits)}`,
          ),
        ),
        hovertemplate: "%{text}<extra></extra>",
      };
    }),
  );
  return chart({
    title,
    x: `${x.heading} (${x.unit})`,
    y: `${y.heading} (${y.unit})`,
    traces,
    open,
    reversed: x.direction === "higher",
    summary: `${plural(rows.length, "setting")} of ${plural(groups.length, "threat model")}; less changed to the left.`,
    numbers: numbers(data, rows, [x, y]),
    height,
  });
}
