// What is shown in words.

import { fill } from "./dom.js";
import { PRESETS, native, scaleText, windowOf } from "./scale.js";
import { AXES, offset } from "./slices.js";

const NAMES = ["sagittal", "coronal", "axial"];

export function showState(ui, state, { loaded, channel, scale, maps, word, facts }) {
  const { shape } = loaded.clean;
  const axis = AXES[state.plane];
  ui.slices.forEach(({ field, control, text, name }, n) => {
    field.hidden = axis !== undefined && axis !== n;
    Object.assign(control, { max: shape[n] - 1, value: state.at[n] });
    const place = `${state.at[n] + 1} of ${shape[n]}`;
    text.textContent = `${name}: ${place}`;
    control.setAttribute("aria-valuetext", place);
  });
  ui.planes.show(state.plane);
  ui.pictures.show(state.picture);
  const { compare, change, overlays } = ui;
  showWindow(ui.greys, state.window, scale);
  compare.element.hidden = ui.greys.element.hidden = state.picture !== "volume";
  change.element.hidden = state.picture !== "change";
  const isWipe = state.mode === "wipe";
  compare.mix.value = isWipe ? 1 - state.mix : state.mix;
  compare.mixText.textContent = isWipe ? "Border: clean left of it, adversarial right" : "From clean (left) to adversarial (right)";
  compare.mix.setAttribute("aria-valuetext", mixText(state));
  compare.mode.value = state.mode;
  compare.blink.setAttribute("aria-pressed", String(state.blinking));
  compare.clean.setAttribute("aria-pressed", String(state.mode !== "beside" && state.mix === 0));
  compare.adversarial.setAttribute("aria-pressed", String(state.mode !== "beside" && state.mix === 1));
  change.gain.value = String(state.gain);
  change.ends.replaceChildren(...[-1, 0, 1].map((end) => Object.assign(document.createElement("span"), { textContent: signed(end / state.gain) })));
  change.note.textContent =
    `Adversarial - clean, magnified ${state.gain} times: colours end at \u00b1${plain(1 / state.gain)} of the intensity range ` +
    `0 to 1. The largest change in the volume is ${plain(channel.most)} (${plain(channel.most * 255)}/255). ${word} are outlined in black.`;
  for (const name of ["label", "prediction"]) {
    const { what, opacity } = overlays[name];
    for (const option of what.options) option.disabled = option.value !== "none" && !maps[option.value];
    what.value = state[name];
    opacity.value = state.opacity[name];
    opacity.setAttribute("aria-valuetext", `${Math.round(100 * state.opacity[name])} %`);
  }
  ui.legend.hidden = state.picture === "change";
  ui.jumpPrediction.disabled = !(maps.clean && maps.adversarial);
  ui.unit.textContent = scaleText(scale);
  ui.facts.textContent = facts;
  const shownChannel = loaded.channels > 1 ? `, channel ${state.channel + 1} of ${loaded.channels}` : "";
  const slices = NAMES.map((name, n) => `${name} slice ${state.at[n] + 1} of ${shape[n]}`);
  for (const [{ canvas, shown }, text] of [[ui.left, shownText({ ...state, mix: 0 })], [ui.main, shownText(state)]]) {
    shown.textContent = text + shownChannel;
    canvas.setAttribute("aria-label", `${text}${shownChannel}, ${axis === undefined ? slices.join(", ") : slices[axis]}`);
  }
}

function showWindow({ preset, ...fields }, chosen, scale) {
  const { level, width } = windowOf(scale, chosen);
  const options = [["full", "full range"], ...(scale.suffix ? PRESETS : [])];
  const wanted = chosen ? `${level} ${width}` : "full";
  if (!options.some(([value]) => value === wanted)) options.push([wanted, "own numbers"]);
  fill(preset, options, wanted);
  for (const [name, value] of [["level", level], ["width", width]]) {
    fields[name].text.textContent = `${fields[name].name} (${scale.unit})`;
    fields[name].control.value = Number(value.toFixed(scale.digits));
  }
}

export function valuesAt(state, { shape, channel, scale, maps, regions, millimetres }) {
  const n = offset(shape, state.at);
  const names = state.chosen.class_names;
  const named = (index) => `${index} ${names[index] ?? "unknown class"}`;
  const className = (map) => (map ? regions[map[n]].map(named).join(", ") || named(0) : "not saved");
  const both = (value, onScale) => (scale.isKnown ? `${value}${scale.suffix} (${onScale})` : onScale);
  const intensity = (value) => both(native(scale, value).toFixed(scale.digits), value.toFixed(4));
  const change = channel.change[n];
  const steps = `${signed(change * 255, 2)}/255`;
  const difference = scale.isKnown
    ? `${signed((scale.high - scale.low) * change, scale.digits)}${scale.suffix} (${signed(change, 4)}, ${steps})`
    : `${signed(change, 4)} (${steps})`;
  return [
    ["Place (R, A, S)", `${millimetres.map((value) => value.toFixed(1)).join(", ")} mm`],
    ["Clean", intensity(channel.clean[n])],
    ["Adversarial", intensity(channel.adversarial[n])],
    ["Difference", difference],
    ["Label", className(maps.label)],
    ["Prediction, clean", className(maps.clean)],
    ["Prediction, adversarial", className(maps.adversarial)],
  ];
}

function shownText(state) {
  const picture = state.picture === "change" ? `perturbation x ${state.gain}` : mixText(state);
  return state.hidden ? `${picture}, overlays hidden` : picture;
}

function mixText({ mix, mode }) {
  if (mix === 0) return "clean";
  if (mix === 1 || mode === "beside") return "adversarial";
  return mode === "wipe" ? "clean | adversarial" : `${Math.round(100 * mix)} % adversarial`;
}

const plain = (value) => String(Number(value.toPrecision(3)));

function signed(value, digits) {
  const text = digits === undefined ? plain(Math.abs(value)) : Math.abs(value).toFixed(digits);
  if (Number(text) === 0) return text;
  return value < 0 ? `-${text}` : `+${text}`;
}
