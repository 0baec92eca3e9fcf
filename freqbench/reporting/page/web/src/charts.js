// Plotly with the page's colours; every chart has a text that says what it shows and a table of its numbers.

import { escaped, h } from "./dom.js";
import { annotations } from "./labels.js";

const PRINTED_PX = 640;
const BELOW_PX = 56; // ticks and title of the x axis

const { Plotly } = window; // of dist/charts.js, which the page holds before this bundle

const SYMBOLS = {
  o: "circle",
  s: "square",
  "^": "triangle-up",
  D: "diamond",
  v: "triangle-down",
  P: "cross",
  X: "x",
  "<": "triangle-left",
  ">": "triangle-right",
  "*": "star",
  p: "pentagon",
};
const DASHES = { solid: "solid", dashed: "dash", dashdot: "dashdot", dotted: "dot" };

// The house's colours, where they stand out less than 3:1 from the page.
const LIGHTER = { "#0072b2": "#4aa8e0", "#d55e00": "#f07f2e", "#009e73": "#2bc796" };
const DARKER = { "#56b4e9": "#2f8fc8", "#e69f00": "#b97f00", "#cc79a7": "#bf5f95" };

const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Colour, symbol and dash of a family; black is the text's colour, so that it shows on dark. */
export function styleOf(data, family) {
  const [color, marker, dash] = data.series[family] ?? ["#000000", "o", "solid"];
  const isDark = document.documentElement.dataset.shade === "dark";
  const adapted = isDark ? LIGHTER : DARKER;
  const shown = color === "#000000" ? variable("--text") : (adapted[color] ?? color);
  return { color: shown, symbol: SYMBOLS[marker] ?? "circle", dash: DASHES[dash] ?? "solid" };
}

function layout(title, x, y, height) {
  const axis = (text) => ({
    title: { text: escaped(text) },
    gridcolor: variable("--line"),
    zerolinecolor: variable("--line"),
    linecolor: variable("--muted"),
    automargin: true,
  });
  return {
    title: { text: escaped(title), font: { size: 14 }, x: 0, xanchor: "left", xref: "paper" },
    xaxis: axis(x),
    yaxis: axis(y),
    height,
    margin: { l: 56, r: 16, t: 40, b: BELOW_PX },
    paper_bgcolor: variable("--surface"),
    plot_bgcolor: variable("--surface"),
    font: { color: variable("--text"), family: "system-ui, sans-serif", size: 12 },
    legend: { orientation: "h", xref: "container", x: 0, yref: "container", y: 0, yanchor: "bottom", maxheight: 2000 },
    hoverlabel: { align: "left" },
  };
}

/** A figure. `summary`: what a listener hears; `numbers`: an element with the same numbers as a table; `open` is told
 * the `customdata` of a point that is clicked; `named`: points `{text, x, y}` that have their names beside them, in place of
 * a legend. */
export function chart({
  title,
  x,
  y,
  traces,
  shapes = [],
  summary,
  numbers,
  height = 380,
  reversed = false,
  range = null,
  fromZero = false,
  categories = null,
  open = null,
  named = null,
}) {
  const box = h("div", { class: "chart", role: "img", "aria-label": `${title}. ${summary}` });
  const key = h("ol", { class: "key", hidden: true }, (named ?? []).map(({ text }) => h("li", {}, text)));
  const figure = h(
    "figure",
    {},
    box,
    named && key,
    h("figcaption", {}, summary),
    h("details", {}, h("summary", {}, "The numbers as a table"), numbers),
  );
  let fitted = "";
  /** Names the points anew where the plot has another size. */
  const name = () => {
    const { xaxis, yaxis } = box._fullLayout;
    const size = [xaxis._length, yaxis._length];
    if (fitted === String(size)) return;
    fitted = String(size);
    const points = traces.flatMap((trace) => trace.x.map((value, place) => [value, trace.y[place]]));
    const { made, isNumbered } = annotations(named, points, (a, b) => [xaxis.l2p(a), yaxis.l2p(b)], ...size, variable("--muted"));
    key.hidden = !isNumbered;
    const ranges = { "xaxis.range": [...xaxis.range], "yaxis.range": [...yaxis.range] }; // names must not widen them
    Plotly.relayout(box, { annotations: made, ...ranges });
  };
  /** Adds the legend's height below the plot and its axis title, so that neither covers nor squeezes the other. */
  const makeRoom = () => {
    const legend = Math.ceil(box.querySelector(".legend")?.getBBox().height ?? 0);
    if (box.layout.height !== height + legend)
      Plotly.relayout(box, { height: height + legend, "margin.b": BELOW_PX + legend });
  };
  const draw = () => {
    const full = layout(title, x, y, height);
    full.shapes = shapes;
    full.showlegend = !named;
    if (reversed) full.xaxis.autorange = "reversed";
    if (range) full.yaxis.range = range;
    if (categories) Object.assign(full.yaxis, { type: "category", categoryarray: categories, autorange: "reversed" });
    if (fromZero) full.xaxis.rangemode = "tozero";
    Plotly.react(box, traces, full, { displaylogo: false, responsive: true, displayModeBar: false });
    box.removeAllListeners("plotly_afterplot");
    fitted = "";
    const settle = named ? name : makeRoom;
    box.on("plotly_afterplot", settle);
    settle();
    if (open) {
      box.removeAllListeners("plotly_click");
      box.on("plotly_click", ({ points }) => open(points[0].customdata));
    }
  };
  return {
    figure,
    draw,
    resize: (width) => Plotly.relayout(box, width ? { width } : { width: null, autosize: true }),
    free: () => Plotly.purge(box),
  };
}

/** Gives charts, as `drawn()` returns them, the width of a printed page while it is printed. */
export function fitForPrint(drawn) {
  addEventListener("beforeprint", () => drawn().forEach((each) => each.resize(PRINTED_PX)));
  addEventListener("afterprint", () => drawn().forEach((each) => each.resize(null)));
}
