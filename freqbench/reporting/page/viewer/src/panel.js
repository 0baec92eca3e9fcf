// What stands around the picture: selects, sliders, legend, values. Says what is wanted through `actions`, shows a state.

import { button, choice, fill, group, labelled, make, number, select, slider } from "./dom.js";
import { HELP } from "./keys.js";
import { OVERLAYS } from "./loaded.js";
import { DIVERGING } from "./screen.js";

export const GAINS = [1, 2, 5, 10, 20, 50, 100, 200, 500];
export const RATES = [0.5, 1, 2, 3]; // changes a second: more than three flashes a second are a danger to some
export const PLANES = [
  ["axial", "Axial", "Slices from foot to head (1)"],
  ["coronal", "Coronal", "Slices from back to front (2)"],
  ["sagittal", "Sagittal", "Slices from left to right (3)"],
  ["multi", "All three", "Three planes with linked cross-hairs (4)"],
];
const PICTURES = [
  ["volume", "Volume", "Clean and adversarial volume (P)"],
  ["change", "Perturbation", "Adversarial - clean (P)"],
];
const AXIS_NAMES = ["Sagittal slice (left to right)", "Coronal slice (back to front)", "Axial slice (foot to head)"];

export function panel(actions) {
  const cases = caseFields(actions);
  const planes = choice("Plane", PLANES, actions.plane);
  const pictures = choice("Picture", PICTURES, actions.picture);
  const slices = AXIS_NAMES.map((name, axis) => {
    const control = slider(0, 0, 1, (value) => actions.slice(axis, value));
    const field = labelled(name, control);
    return { field, control, text: field.querySelector("label"), name };
  });
  const compare = compareGroup(actions);
  const change = changeGroup(actions);
  const overlays = overlayGroup(actions);
  const greys = windowGroup(actions);
  const jump = button("Largest perturbation", actions.jump, { title: "Slice in which the volume changed most (C)" });
  const jumpPrediction = button("Most changed prediction", actions.jumpPrediction, { title: "Slice in which the target's prediction changed most" });
  const values = make("dl", { className: "fbv-values", "aria-live": "polite", "aria-atomic": "true", "aria-label": "Values at the cross-hair" });
  const legend = make("ul", { className: "fbv-legend" });
  const [left, main] = [picture(), picture()];
  const problem = make("div", { className: "fbv-problem", role: "alert", hidden: true });
  const facts = make("p", { className: "fbv-note" });
  const unit = make("p", { className: "fbv-note" });
  const side = make("div", {},
    group("Slice", ...slices.map(({ field }) => field), make("div", { className: "fbv-row" }, jump, jumpPrediction)),
    compare.element, change.element, greys.element, overlays.element,
    group("At the cross-hair", values, unit), help());
  const stage = make("div", { className: "fbv-stage" }, left.element, main.element);
  const body = make("div", { className: "fbv-body" }, make("div", {}, stage, legend, facts), side);
  const bar = make("div", { className: "fbv-bar" }, planes.element, pictures.element);
  const element = make("div", { className: "fbv" }, cases.element, problem, bar, body);
  return { element, left, main, problem, facts, unit, slices, cases, planes, pictures, compare, change, greys, overlays, values, legend, jumpPrediction, bar, body };
}

function picture() {
  const canvas = make("canvas", { tabIndex: 0, role: "application", "aria-label": "Slices", "aria-roledescription": "volume viewer" });
  const shown = make("div", { className: "fbv-shown" });
  return { element: make("div", { className: "fbv-picture" }, canvas, shown), canvas, shown };
}

function caseFields(actions) {
  const names = { case: "Case", source: "Made on (source model)", attack: "Attack", target: "Predictions of (target model)", channel: "Channel" };
  const fields = Object.entries(names).map(([name, text]) => {
    const control = select((value) => actions.choose(name, value));
    return [name, { control, field: labelled(text, control) }];
  });
  const element = make("div", { className: "fbv-cases" }, ...fields.map(([, { field }]) => field));
  return { element, ...Object.fromEntries(fields) };
}

function compareGroup(actions) {
  const mix = slider(0, 1, 0.01, actions.slide);
  const mixed = labelled("From clean to adversarial", mix);
  const mode = select(actions.mode);
  fill(mode, [["beside", "side by side"], ["blend", "blend"], ["wipe", "wipe: clean left, adversarial right"]], "beside");
  const blink = button("Blink", actions.blink, { "aria-pressed": "false", title: "Clean and adversarial in turn (B)" });
  const rate = select((value) => actions.rate(Number(value)));
  fill(rate, RATES.map((each) => [String(each), `${each} a second`]), "2");
  const clean = button("Clean", () => actions.mix(0));
  const adversarial = button("Adversarial", () => actions.mix(1));
  const element = group("Clean and adversarial",
    make("div", { className: "fbv-row" }, clean, adversarial, blink),
    mixed, labelled("How", mode), labelled("Blink, changes", rate));
  return { element, mix, mixText: mixed.querySelector("label"), mode, blink, rate, clean, adversarial };
}

function changeGroup(actions) {
  const gain = select((value) => actions.gain(Number(value)));
  fill(gain, GAINS.map((each) => [String(each), `x ${each}`]), "1");
  const ramp = make("div", { className: "fbv-scale", "aria-hidden": "true" });
  ramp.style.background = `linear-gradient(to right, ${DIVERGING.map((rgb) => `rgb(${rgb})`).join(", ")})`;
  const ends = make("div", { className: "fbv-ends" });
  const note = make("p", { className: "fbv-note" });
  return { element: group("Perturbation", labelled("Magnified", gain), ramp, ends, note), gain, ends, note };
}

function windowGroup(actions) {
  const preset = select(actions.preset);
  const fields = [["level", "Level"], ["width", "Width"]].map(([key, name]) => {
    const control = number((value) => actions.window({ [key]: value }));
    const field = labelled(name, control);
    return [key, { control, field, text: field.querySelector("label"), name }];
  });
  const row = make("div", { className: "fbv-row" }, ...fields.map(([, { field }]) => field));
  return { element: group("Window and level", labelled("Preset", preset), row), preset, ...Object.fromEntries(fields) };
}

function overlayGroup(actions) {
  const titles = { label: "Solid outline", prediction: "Dashed outline" };
  const parts = Object.entries(titles).map(([name, title]) => {
    const what = select((value) => actions.overlay(name, value));
    fill(what, OVERLAYS, "none");
    const opacity = slider(0, 1, 0.05, (value) => actions.opacity(name, value));
    return [name, { what, opacity, fields: [labelled(title, what), labelled(`${title}: opacity`, opacity)] }];
  });
  return { element: group("Outlines of classes", ...parts.flatMap(([, part]) => part.fields)), ...Object.fromEntries(parts) };
}

function help() {
  const rows = HELP.map(([key, text]) => make("li", {}, make("kbd", { textContent: key }), ` ${text}`));
  return make("details", {}, make("summary", { textContent: "Keys" }), make("ul", {}, ...rows),
    make("p", { className: "fbv-note", textContent:
      "Slices are shown as radiologists do: the patient's right (R) on the left. Voxels keep their true proportions. " +
      "Arrow keys act on the picture when it has the focus." }));
}

export function showLegend(element, names, colors, word) {
  element.setAttribute("aria-label", word);
  element.replaceChildren(...names.slice(1).map((name, n) => {
    const swatch = make("span", { className: "fbv-swatch", "aria-hidden": "true" });
    swatch.style.backgroundColor = colors[n + 1];
    return make("li", {}, swatch, make("span", { textContent: `${n + 1} ${name}` }));
  }));
}

export function showValues(element, pairs) {
  element.replaceChildren(...pairs.flatMap(([term, value]) => [make("dt", { textContent: term }), make("dd", { textContent: value })]));
}
