// Tables whose cells are coloured by their value: readable as text, by keyboard and in print.

import { h, scroller } from "./dom.js";

/** A cell of a heat table: text, a share 0..1 of the colour (null: none), and a title; `open`: what a click does. */
export function heatCell(text, share, title, extra = "", open = null) {
  const isEmpty = text === "";
  const style = share === null || isEmpty ? {} : { "--share": `${Math.round(100 * Math.min(1, Math.max(0, share)))}%` };
  const name = ["heat", isEmpty ? "missing" : "", extra].filter(Boolean).join(" ");
  const content = open && !isEmpty ? h("button", { type: "button", "aria-label": title, onclick: open }, text) : text;
  return h("td", { class: name, style, title }, content, isEmpty ? h("span", { class: "sr" }, `empty: ${title}`) : null);
}

/** Sections: [heading or null, [[row heading, cells], ...]]. */
export function heatTable(caption, corner, headings, sections) {
  const head = h(
    "tr",
    {},
    h("th", { scope: "col" }, corner),
    headings.map((text) => h("th", { scope: "col", class: "number" }, text)),
  );
  const bodies = sections.map(([heading, rows]) =>
    h(
      "tbody",
      {},
      heading === null
        ? null
        : h("tr", { class: "heading" }, h("th", { scope: "rowgroup", colspan: String(headings.length + 1) }, h("span", {}, heading))),
      rows.map(([name, cells]) => h("tr", {}, h("th", { scope: "row" }, name), cells)),
    ),
  );
  return scroller(caption, h("table", { class: "heat-table" }, h("caption", {}, h("span", {}, caption)), h("thead", {}, head), bodies));
}

export function legend(low, high, what) {
  return h("p", { class: "legend", "aria-hidden": "true" }, low, h("span", { class: "ramp" }), high, ` ${what}`);
}
