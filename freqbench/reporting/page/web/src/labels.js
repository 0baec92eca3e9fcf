// Names beside the points of a chart, where they cover neither each other nor a point.

import { escaped } from "./dom.js";

const [SIZE, LINE, POINT] = [11, 14, 9]; // of the letters, a line and half a point, in pixels
const WRAPPED = 24; // characters of a line
const DISTANCES = [11, 26, 44, 66, 92, 120];
const DIRECTIONS = [[1, 0], [-1, 0], [0, -1], [0, 1], [0.7, -0.7], [-0.7, -0.7], [0.7, 0.7], [-0.7, 0.7]];
const STEPS = [0.15, 0.3, 0.45, 0.6, 0.75, 0.9]; // along the line to a name

/** A text in lines of so many characters that break at its blanks; a longer word has a line of its own. */
export function wrapped(text, most = WRAPPED) {
  const found = [];
  for (const word of text.split(" ")) {
    if (found.length && found.at(-1).length + 1 + word.length <= most) found[found.length - 1] += ` ${word}`;
    else found.push(word);
  }
  return found;
}

/** How far a point is from a box. */
const gap = ({ x0, x1, y0, y1 }, [x, y]) => Math.hypot(Math.max(x0 - x, 0, x - x1), Math.max(y0 - y, 0, y - y1));
const overlap = (a, b) => a.x0 < b.x1 && b.x0 < a.x1 && a.y0 < b.y1 && b.y0 < a.y1;

/** Boxes for texts `{text, x, y}` in pixels of a plot of this size, or null where they do not all fit. */
function placed(texts, points, width, height) {
  const pen = document.createElement("canvas").getContext("2d");
  pen.font = `${SIZE}px system-ui, sans-serif`;
  const taken = points.map(([x, y]) => ({ x0: x - POINT, x1: x + POINT, y0: y - POINT, y1: y + POINT }));
  const boxes = [];
  for (const { text, x, y } of texts) {
    const rows = wrapped(text);
    const [w, h] = [Math.max(...rows.map((row) => pen.measureText(row).width)) / 2 + 3, (rows.length * LINE) / 2];
    const tried = DISTANCES.flatMap((far) =>
      DIRECTIONS.map(([right, down]) => [x + right * far + Math.sign(right) * w, y + down * far + Math.sign(down) * h, far]),
    ).map(([cx, cy, far]) => ({ cx, cy, far, x0: cx - w, x1: cx + w, y0: cy - h, y1: cy + h }));
    const free = tried.filter(
      (each) => each.x0 >= 0 && each.x1 <= width && each.y0 >= 0 && each.y1 <= height && !taken.some((other) => overlap(each, other)),
    );
    const isNearest = (each) => points.every((point) => gap(each, point) >= gap(each, [x, y]));
    const isClear = ({ cx, cy }) => // its line meets no other point and no name
      STEPS.every((step) => {
        const [px, py] = [x + step * (cx - x), y + step * (cy - y)];
        return !taken.some((other) => px > other.x0 && px < other.x1 && py > other.y0 && py < other.y1 && !(x > other.x0 && x < other.x1 && y > other.y0 && y < other.y1));
      });
    const box = free.find((each) => isNearest(each) && isClear(each)) ?? free.find(isNearest) ?? free[0];
    if (!box) return null;
    taken.push(box);
    boxes.push({ ...box, rows });
  }
  return boxes;
}

/**
 * Annotations of Plotly that name points `{text, x, y}`, `at(x, y)` being their pixels in a plot of this size; `points` are
 * all that are drawn. Where the names do not fit, numbers stand there, and `isNumbered` is true.
 */
export function annotations(named, points, at, width, height, color) {
  const spots = named.map(({ text, x, y }) => ({ text, x: at(x, y)[0], y: at(x, y)[1] }));
  const marks = points.map(([x, y]) => at(x, y));
  const whole = placed(spots, marks, width, height);
  const numbered = spots.map((spot, place) => ({ ...spot, text: String(place + 1) }));
  const boxes = whole ?? placed(numbered, marks, width, height) ?? placed(numbered, [], width, height) ?? [];
  const made = boxes.map(({ cx, cy, far, rows }, place) => ({
    x: named[place].x, y: named[place].y, ax: cx - spots[place].x, ay: cy - spots[place].y, standoff: POINT,
    text: rows.map(escaped).join("<br>"), font: { size: SIZE }, align: "left", xanchor: "center", yanchor: "middle", borderpad: 0,
    showarrow: true, arrowhead: 0, arrowwidth: 0.8, arrowcolor: far > DISTANCES[0] ? color : "rgba(0, 0, 0, 0)",
  }));
  return { made, isNumbered: !whole };
}
