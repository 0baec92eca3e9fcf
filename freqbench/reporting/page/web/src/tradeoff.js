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

const NEAR = 0.015; // of what all points span

/** How many of the points [row, x, y] before it each covers, as good as exactly. */
function ringed(points) {
  const span = (place) => Math.max(...points.map((each) => each[place])) - Math.min(...points.map((each) => each[place])) || 1;
  const [width, height] = [span(1), span(2)];
  const isNear = (a, b) => Math.abs(a[1] - b[1]) < NEAR * width && Math.abs(a[2] - b[2]) < NEAR * height;
  return new Map(points.map((point, place) => [point[0], points.slice(0, place).filter((other) => isNear(other, point)).length]));
}

/** A chart of scores y against x of rows in groups [threat model, rows], or null where no row has both.
 * `name` of a family in its threat model; `open` is told the row of a point that is clicked. */
export function tradeOff(data, groups, x, y, { title, name, height = 460, open = null }) {
  const { summary } = data;
  const isKnown = (row) => !Number.isNaN(summary.number(x.name, row)) && !Number.isNaN(summary.number(y.name, row));
  const rows = groups.flatMap(([, members]) => members).filter(isKnown);
  if (!rows.length) return null;
  const ring = ringed(rows.map((row) => [row, summary.number(x.name, row), summary.number(y.name, row)]));
  const named = [];
  const traces = groups.flatMap(([threat, members]) =>
    [...families(data, members.filter(isKnown))].map(([family, own]) => {
      const { color, symbol, dash } = styleOf(data, family);
      own.sort((a, b) => summary.number("budget", a) - summary.number("budget", b));
      const last = own.at(-1);
      named.push({ text: name(family, threat), x: summary.number(x.name, last), y: summary.number(y.name, last) });
      const isNull = Boolean(summary.number("null", own[0]));
      return {
        type: "scatter",
        mode: own.length > 1 ? "lines+markers" : "markers",
        name: escaped(name(family, threat)),
        x: own.map((row) => summary.number(x.name, row)),
        y: own.map((row) => summary.number(y.name, row)),
        line: { color, dash, width: 1.5 },
        marker: {
          color,
          opacity: 1,
          symbol: own.map((row) => (isNull || ring.get(row) ? `${symbol}-open` : symbol)),
          size: own.map((row) => 10 + 8 * ring.get(row)),
          line: { width: own.map((row) => (isNull || ring.get(row) ? 2 : 0)) },
        },
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
    named,
    open,
    reversed: x.direction === "higher",
    summary: `${plural(rows.length, "setting")} of ${plural(groups.length, "threat model")}; less changed to the left.${[...ring.values()].some(Boolean) ? " A ring: another attack on the same spot." : ""}`,
    numbers: numbers(data, rows, [x, y]),
    height,
  });
}
