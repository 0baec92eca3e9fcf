// Slices of attacked cases, one a white-box row that has one: of the case that lost most.

import { definition, named } from "./data.js";
import { classCells, h, plural } from "./dom.js";

const [CHANGE, REFERENCE] = [2, 3]; // planes; after the label, or what stands for it, come predictions
const [NO_CHANGE, STEPS] = [128, 31];
const DASH = 7; // pixels of a row in a dash, and in a gap
const FEW = 3; // glimpses before the rest is folded
const [BELOW, UNCHANGED, ABOVE] = [[230, 97, 1], [247, 247, 247], [94, 60, 153]]; // as in figures

const blended = (base, top, share) => [0, 1, 2].map((at) => base[at] * (1 - share) + top[at] * share);

/**
 * Regions that end at a place of a label map, given the regions of each label; the values of `labels` are 4 apart, as of
 * pixels. Where several end, one of them: on a line whatever its direction they take turns, as in the viewer.
 */
function outline(labels, at, width, regions) {
  const [pixel, beside] = [at / 4, []];
  const [x, y] = [pixel % width, Math.floor(pixel / width)];
  for (const [dx, dy] of [[-1, 0], [1, 0], [0, -1], [0, 1]])
    beside.push(x + dx < 0 || x + dx >= width ? 0 : (labels[at + 4 * (dx + dy * width)] ?? 0));
  const ending = regions[labels[at]].filter((region) => beside.some((label) => !regions[label].includes(region)));
  return ending[Math.floor((((x + 2 * y) % 7) * ending.length) / 7)];
}

/**
 * Draws the planes of a slice on canvases: volumes in grey, the change in two colours, and over their volume the outlines of
 * classes: of the label solid, of a prediction dashed. Returns the classes that are seen.
 */
async function draw(slice, canvases, palette) {
  const { size, planes, below } = slice;
  const [height, width] = size;
  const regions = slice.regions.length ? slice.regions : Array.from({ length: 256 }, (_, label) => (label ? [label] : []));
  const image = h("img", { src: `data:image/png;base64,${planes}` });
  await image.decode();
  const sheet = h("canvas", { width, height: height * canvases.length }).getContext("2d");
  sheet.drawImage(image, 0, 0);
  const pixels = canvases.map((_, place) => sheet.getImageData(0, place * height, width, height).data);
  const bases = [0, 1, CHANGE, ...below].map((place) => pixels[place]);
  const labels = new Set(); // of canvases that are shown
  canvases.forEach((canvas, place) => {
    const drawn = new ImageData(width, height);
    const maps = place > CHANGE ? [...new Set([REFERENCE, place])] : [];
    for (let at = 0; at < drawn.data.length; at += 4) {
      const change = pixels[place][at] - NO_CHANGE;
      let color = bases[place].subarray(at, at + 3);
      if (place === CHANGE) color = blended(UNCHANGED, change < 0 ? BELOW : ABOVE, Math.abs(change) / STEPS);
      for (const map of maps) {
        const value = pixels[map][at];
        if (!value) continue;
        if (canvas.isConnected) labels.add(value);
        const [x, y] = [(at / 4) % width, Math.floor(at / 4 / width)];
        const region = (map === REFERENCE || Math.floor((x + 2 * y) / DASH) % 2 === 0) && outline(pixels[map], at, width, regions);
        if (region) color = palette[region];
      }
      drawn.data.set([...color, 255], at);
    }
    canvas.getContext("2d").putImageData(drawn, 0, 0);
    canvas.dataset.drawn = "yes";
  });
  return new Set([...labels].flatMap((label) => regions[label]));
}

/** Canvases for the planes of a slice, and the ratio of their sides. */
function blank(slice) {
  const { size, aspect, captions } = slice;
  const [height, width] = size;
  return [captions.map(() => h("canvas", { width, height })), width / (height * aspect)];
}

/** Draws the glimpse of a row once an element with its canvases is in sight; returns the legend of its classes. */
function drawInSight(data, row, element, canvases) {
  const legend = h("span", { class: "classes" });
  const sight = new IntersectionObserver(async (entries) => {
    if (!entries.some((each) => each.isIntersecting)) return;
    sight.disconnect();
    const seen = await draw(data.glimpseOf.get(row).slice, canvases, data.palette);
    const cell = classCells(data, data.summary.text("dataset", row));
    const [solid, ...dashed] = data.glimpseOf.get(row).slice.captions.slice(REFERENCE);
    const lines = solid && h("span", {}, `solid: ${solid}${dashed.length ? ", dashed: prediction" : ""}`);
    legend.append(...[...seen].sort((a, b) => a - b).map(cell), lines ?? "");
  });
  sight.observe(element);
  return legend;
}

/** The patient's sides at the edges of a slice: right on the left, left on the right, anterior on top. */
const sides = () => ["R", "L", "A"].map((side) => h("span", { class: `side ${side}` }));

/** The panels of a row's glimpse below their captions, and their legend. */
function picture(data, row) {
  const glimpse = data.glimpseOf.get(row);
  const alt = `Slice of ${glimpse.case} under ${data.summary.text("attack", row)} on ${data.summary.text("source", row)}`;
  const { captions } = glimpse.slice;
  const [canvases, ratio] = blank(glimpse.slice);
  const look = { "aspect-ratio": String(ratio), width: `${100 * Math.min(1, ratio)}%` };
  const seen = (canvas) => h("span", { class: "anatomy", style: look }, sides(), canvas);
  const cells = captions.map((caption, place) => h("span", {}, caption, seen(canvases[place])));
  const element = h("span", { class: "glimpse", role: "img", "aria-label": `${alt}: ${captions.join("; ")}` }, cells);
  return [element, drawInSight(data, row, element, canvases)];
}

/** The volume and what is found in it, clean to the left and attacked to the right of a border under a slider's thumb. */
export function wipe(data, row) {
  const { summary, glimpseOf } = data;
  const { slice, case: name, words } = glimpseOf.get(row);
  const { captions, below } = slice;
  const [canvases, ratio] = blank(slice);
  const [before, after] = [3 + below.lastIndexOf(0), 3 + below.indexOf(1)]; // older glimpses may have the label alone
  const pairs = [[0, 1], ...(before > 2 && after > 2 ? [[before, after]] : [])];
  const stacks = pairs.map((pair) =>
    h("div", { class: "pair" }, h("p", {}, pair.map((place) => h("span", {}, captions[place]))),
      h("div", { class: "stack", style: { "aspect-ratio": String(ratio) } }, sides(), pair.map((place) => canvases[place]))),
  );
  const alt = `Slice of ${name} under ${summary.text("attack", row)} on ${summary.text("source", row)}`;
  const images = h("div", { class: "pairs", role: "img", "aria-label": `${alt}: ${pairs.flat().map((place) => captions[place]).join("; ")}` }, stacks);
  const element = h("div", { class: "wipe", style: { "--border": "50%" } }, images);
  const say = (share) => `${share} % clean, ${100 - share} % adversarial`;
  const slider = h("input", {
    type: "range", min: "0", max: "100", value: "50", "aria-label": "border between the clean and the adversarial slice", "aria-valuetext": say(50),
    oninput: ({ target }) => {
      element.style.setProperty("--border", `${target.value}%`);
      target.setAttribute("aria-valuetext", say(Number(target.value)));
    },
  });
  element.append(h("label", { class: "slider" }, slider, h("span", {}, "left of the line: clean; right of it: adversarial")), h("p", { class: "hint" }, words), drawInSight(data, row, element, canvases));
  return element;
}

export function lost({ glimpseOf }, row) {
  const { case: name, drop } = glimpseOf.get(row);
  return `${name} ${drop < 0 ? "gained" : "lost"} ${Math.abs(drop).toFixed(1)} points`;
}

/** The glimpse of a row of the summary, or null. */
export function worstCase(data, row) {
  if (!data.glimpseOf.has(row)) return null;
  const words = definition(data, data.summary.text("dataset", row));
  const caption = `${lost(data, row)} of ${words}: the most of all cases; ${data.glimpseOf.get(row).words}.`;
  return h("figure", { class: "worst" }, picture(data, row), h("figcaption", {}, caption));
}

/** The glimpses of rows, all but the first few folded; `open` is told the row of the one that is chosen. */
export function strip(data, rows, open) {
  const card = (row) => {
    const note = h("span", { class: "hint" }, `${lost(data, row)}; ${data.glimpseOf.get(row).words}`);
    const content = [h("span", { class: "attack" }, named(data, row)), picture(data, row), note];
    return h("li", {}, h("button", { type: "button", onclick: () => open(row) }, content));
  };
  const list = (some) => h("ul", { class: "strip", "aria-label": "Glimpses, the largest drop first" }, some.map(card));
  const rest = rows.slice(FEW);
  return [list(rows.slice(0, FEW)), rest.length ? h("details", {}, h("summary", {}, `${plural(rest.length, "more attack")}`), list(rest)) : ""];
}
