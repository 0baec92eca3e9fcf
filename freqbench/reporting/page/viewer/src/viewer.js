// The viewer: a state, what may happen to it, and the screen and panel that show it.

import { chosenCase, factsOf, wantedOf } from "./cases.js";
import { fill } from "./dom.js";
import { listen } from "./keys.js";
import { loadCase, loadPredictions, ofChannel, reader } from "./loaded.js";
import { GAINS, panel, showLegend, showValues } from "./panel.js";
import { makeScreen } from "./screen.js";
import { greys, scaleOf, windowOf } from "./scale.js";
import { AXES, blended, dashed, focus, gainFor, outlined, painted, regionsOf, wiped } from "./slices.js";
import { showState, valuesAt } from "./texts.js";

const SPEAK_AFTER = 150; // milliseconds of rest before values are told, so that scrolling is not read out

const START = {
  wanted: {}, chosen: null, plane: "axial", at: null, picture: "volume", mode: "beside", mix: 1, gain: 1, rate: 2, channel: 0,
  blinking: false, label: "label", prediction: "adversarial", opacity: { label: 1, prediction: 1 }, hidden: false,
  window: null,
};

const BLACK = Array(256).fill("#000000"); // of outlines over a perturbation, whose colours are others

export async function start(element, manifest) {
  const state = { ...START, opacity: { ...START.opacity } };
  const read = reader(manifest);
  const colors = colorsFor(manifest.colors);
  let drawing = Promise.resolve(); // one case after the other
  let view, left, maps = {}, loaded, regions, channel, scale, timer, speaking, turn = 0;

  const ui = panel({
    choose(name, value) {
      state.wanted[name] = value;
      if (name === "channel") return changeChannel(Number(value));
      return name === "target" ? changeTarget() : changeCase();
    },
    plane: setPlane,
    picture: (value) => setPicture(value ?? (state.picture === "volume" ? "change" : "volume")),
    slice: (axis, index) => moveTo(state.at.map((old, n) => (n === axis ? index : old))),
    mix,
    slide: (value) => mix(state.mode === "wipe" ? 1 - value : value), // its thumb is the wipe's border
    mode(value) {
      state.mode = value;
      if (value === "wipe" && (state.mix === 0 || state.mix === 1)) state.mix = 0.5;
      stopBlinking();
      paint();
    },
    blink,
    rate(value) {
      state.rate = value;
      if (state.blinking) startBlinking();
    },
    gain(value) {
      state.gain = value;
      paint();
    },
    preset(value) {
      const [level, width] = value.split(" ").map(Number);
      state.window = value === "full" ? null : { level, width };
      paint();
    },
    window(change) {
      const wanted = { ...windowOf(scale, state.window), ...change };
      if (Number.isFinite(wanted.level) && wanted.width > 0) state.window = wanted;
      paint();
    },
    overlay(name, value) {
      Object.assign(state, { [name]: value, hidden: false });
      paint();
    },
    opacity(name, value) {
      state.opacity[name] = value;
      paint();
    },
    jump: () => jumpTo(channel.change),
    jumpPrediction: () => jumpTo(changedPrediction()),
  });
  const actions = {
    scroll: (steps) => step(AXES[state.plane] ?? 2, steps),
    across: (steps) => step(state.plane === "sagittal" ? 1 : 0, state.plane === "sagittal" ? steps : -steps),
    plane: setPlane,
    blink,
    picture: () => setPicture(state.picture === "volume" ? "change" : "volume"),
    jump: () => channel && jumpTo(channel.change),
    overlays() {
      state.hidden = !state.hidden;
      paint();
    },
  };

  function mix(value) {
    stopBlinking();
    Object.assign(state, { mix: value, mode: state.mode === "beside" ? "blend" : state.mode });
    paint();
  }

  function problem(text) {
    ui.problem.textContent = text;
    ui.problem.hidden = !text;
    ui.body.hidden = ui.bar.hidden = Boolean(text);
    if (text) stopBlinking();
  }

  // Only the last of several that are asked for is shown, whatever arrives first.
  async function latest(work) {
    const mine = ++turn;
    ui.element.setAttribute("aria-busy", "true");
    try {
      const result = await work();
      if (mine === turn) problem("");
      return mine === turn ? result : null;
    } catch (error) {
      if (mine === turn) problem(error.message);
      return null;
    } finally {
      if (mine === turn) ui.element.setAttribute("aria-busy", "false");
    }
  }

  async function changeCase() {
    const chosen = chosenCase(manifest.cases, ui.cases, state.wanted);
    state.chosen = chosen;
    const found = await latest(async () => {
      const next = await loadCase(read, chosen);
      return { chosen, next, predictions: await loadPredictions(read, chosen, state.wanted.target, next.clean) };
    });
    if (!found) return;
    drawing = drawing.then(() => showCase(found)).catch((error) => problem(`Volumes cannot be drawn: ${error.message}`));
    await drawing;
  }

  async function showCase({ chosen, next, predictions }) {
    const isSameGrid = String(loaded?.clean.shape) === String(next.clean.shape);
    loaded = { ...next, chosen };
    maps = { ...loaded.maps, ...predictions };
    regions = regionsOf(manifest.regions[chosen.dataset]);
    await view.setGrid(loaded.clean);
    await left.setGrid(loaded.clean);
    state.channel = Math.min(state.channel, loaded.channels - 1);
    const channels = Array.from({ length: loaded.channels }, (_, n) => [String(n), `${n + 1} of ${loaded.channels}`]);
    fill(ui.cases.channel.control, channels, String(state.channel));
    ui.cases.channel.field.hidden = loaded.channels < 2;
    takeChannel();
    if (!isSameGrid) state.at = firstPlace();
    showLegend(ui.legend, chosen.class_names, colors, word());
    setPlane(state.plane);
    view.moveTo(state.at);
  }

  function takeChannel() {
    channel = ofChannel(loaded, state.channel);
    state.gain = gainFor(channel.most, GAINS);
    const next = scaleOf(loaded.chosen, state.channel);
    if (next.unit !== scale?.unit) state.window = null;
    scale = next;
  }

  async function changeTarget() {
    if (loaded?.chosen !== state.chosen) return changeCase(); // which could not be read
    const found = await latest(() => loadPredictions(read, state.chosen, state.wanted.target, loaded.clean));
    if (!found) return;
    maps = { ...loaded.maps, ...found };
    paint();
    tell();
  }

  function changeChannel(index) {
    state.channel = index;
    takeChannel();
    paint();
    tell();
  }

  function paint() {
    if (!channel) return;
    const isChange = state.picture === "change";
    const isAlone = isChange || state.mode !== "beside";
    if (isAlone && document.activeElement === ui.left.canvas) ui.main.canvas.focus(); // keys act on what has the focus
    ui.left.element.hidden = isAlone;
    if (isChange) view.setPicture(channel.change, [-1 / state.gain, 1 / state.gain], true);
    else view.setPicture(mixture(loaded.clean.shape), greys(scale, state.window), false);
    paintOverlays(view, maps);
    view.draw();
    if (!isAlone) {
      left.setPicture(channel.clean, greys(scale, state.window), false);
      paintOverlays(left, { ...maps, adversarial: maps.clean });
      left.draw();
    }
    show();
  }

  function paintOverlays(screen, maps) {
    const parts = ["label", "prediction"].map((name) => (state.hidden ? null : (maps[state[name]] ?? null)));
    const shades = state.picture === "volume" ? colors : BLACK;
    const { shape } = loaded.clean;
    screen.setColours([...parts, shades, state.plane, state.opacity.label, state.opacity.prediction], () => {
      const [solid, broken] = parts.map((map) => (map ? outlined(map, shape, state.plane, regions) : new Uint8Array(channel.clean.length)));
      return painted(solid, dashed(broken, shape), shades, state.opacity);
    });
  }

  function mixture(shape) {
    const { clean, adversarial } = channel;
    if (state.mix === 0) return clean;
    if (state.mix === 1 || state.mode === "beside") return adversarial;
    return state.mode === "wipe" ? wiped(clean, adversarial, shape, state.mix, state.plane) : blended(clean, adversarial, state.mix);
  }

  const word = () => (manifest.regions[loaded.chosen.dataset] ? "Regions" : "Classes");

  const show = () =>
    showState(ui, state, { loaded, channel, scale, maps, word: word(), facts: factsOf(manifest, state.chosen, state.wanted.target) });

  function moved(at, other) {
    state.at = at;
    if (!channel) return;
    other.follow(at);
    show();
    tell();
  }

  function tell() {
    clearTimeout(speaking);
    speaking = setTimeout(
      () => showValues(ui.values, valuesAt(state, { shape: loaded.clean.shape, channel, scale, maps, regions, millimetres: view.millimetres() })),
      SPEAK_AFTER);
  }

  function moveTo(at) {
    const { shape } = loaded.clean;
    view.moveTo(at.map((index, axis) => Math.min(Math.max(index, 0), shape[axis] - 1)));
  }

  const step = (axis, steps) => channel && moveTo(state.at.map((index, n) => (n === axis ? index + steps : index)));

  const changedPrediction = () =>
    maps.clean && maps.adversarial ? maps.clean.map((value, n) => Number(value !== maps.adversarial[n])) : [];

  const place = (values, counted) => focus(values, loaded.clean.shape, AXES[state.plane] ?? AXES.axial, counted);

  const present = () => maps.label?.map((value) => Number(value > 0));

  const firstPlace = () => place(changedPrediction(), present()) ?? place(channel.change, present()) ?? loaded.clean.shape.map((length) => length >> 1);

  const jumpTo = (values) => moveTo(place(values) ?? state.at);

  function setPlane(plane) {
    state.plane = plane;
    for (const screen of [left, view]) screen.setPlane(plane);
    paint();
  }

  function setPicture(picture) {
    state.picture = picture;
    if (picture === "change") stopBlinking();
    paint();
  }

  function blink() {
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) {
      Object.assign(state, { picture: "volume", mode: "blend", mix: state.mix < 0.5 ? 1 : 0 });
      paint();
    } else if (state.blinking) {
      stopBlinking();
      show();
    } else {
      startBlinking();
    }
  }

  function startBlinking() {
    clearTimeout(timer);
    Object.assign(state, { blinking: true, picture: "volume", mode: "blend" });
    const turnOver = () => {
      state.mix = state.mix < 0.5 ? 1 : 0;
      paint();
      timer = setTimeout(turnOver, 1000 / state.rate); // after it was drawn, however long that took
    };
    turnOver();
  }

  function stopBlinking() {
    clearTimeout(timer);
    state.blinking = false;
  }

  element.replaceChildren(ui.element);
  view = await makeScreen(ui.main.canvas, (at) => moved(at, left));
  left = await makeScreen(ui.left.canvas, (at) => moved(at, view));
  listen(ui.element, actions);
  for (const [{ canvas }, screen] of [[ui.main, view], [ui.left, left]]) {
    canvas.addEventListener("webglcontextlost", () => problem("The browser gave up drawing volumes: load the page again."));
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      event.stopImmediatePropagation();
      const plane = state.plane === "multi" ? screen.planeUnder(event) : state.plane;
      if (plane && event.deltaY) step(AXES[plane], event.deltaY < 0 ? 1 : -1);
    }, { capture: true, passive: false });
  }
  await changeCase();

  return {
    async show(row) {
      state.wanted = { ...state.wanted, ...wantedOf(row) };
      await changeCase();
    },
    state: () => ({ ...state.wanted, plane: state.plane, at: [...state.at], picture: state.picture, mix: state.mix, mode: state.mode, blinking: state.blinking }),
    close() {
      stopBlinking();
      clearTimeout(speaking);
      view.close();
      left.close();
      ui.element.remove();
    },
  };
}

// Classes beyond the given colours are grey.
const colorsFor = (colors) => Array.from({ length: 256 }, (_, index) => colors[index] ?? "#999999");
