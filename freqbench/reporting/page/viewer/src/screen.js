// NiiVue as a screen of two layers on one grid: a picture, and colours over it.

import { DRAG_MODE, MULTIPLANAR_TYPE, Niivue, SHOW_RENDER, SLICE_TYPE } from "@niivue/niivue";
import { layerLike } from "./volume.js";

const TYPES = {
  axial: SLICE_TYPE.AXIAL,
  coronal: SLICE_TYPE.CORONAL,
  sagittal: SLICE_TYPE.SAGITTAL,
  multi: SLICE_TYPE.MULTIPLANAR,
};
const PLANES = { 0: "axial", 1: "coronal", 2: "sagittal" };

export const DIVERGING = [
  [5, 48, 97],
  [67, 147, 195],
  [247, 247, 247],
  [214, 96, 77],
  [103, 0, 31],
];
const STOPS = [0, 64, 128, 192, 255];

const GREEN = [0, 0.72, 0.15, 1]; // seen on black, on white and on all colours of classes

const OPTIONS = {
  logLevel: "silent",
  dragAndDropEnabled: false,
  dragMode: DRAG_MODE.none,
  clipPlaneHotKey: "",
  cycleClipPlaneHotKey: "",
  viewModeHotKey: "",
  isNearestInterpolation: true,
  isRadiologicalConvention: true,
  showAllOrientationMarkers: true,
  isOrientationTextVisible: true,
  fontColor: GREEN,
  fontMinPx: 15,
  crosshairColor: GREEN,
  crosshairWidth: 0.3,
  crosshairWidthUnit: "percent",
  crosshairGap: 6,
  multiplanarShowRender: SHOW_RENDER.NEVER,
  multiplanarLayout: MULTIPLANAR_TYPE.GRID,
  multiplanarPadPixels: 4,
  show3Dcrosshair: false,
  loadingText: "",
};

export function hasWebGL2() {
  const gl = document.createElement("canvas").getContext("webgl2");
  gl?.getExtension("WEBGL_lose_context")?.loseContext();
  return Boolean(gl);
}

export async function makeScreen(canvas, onMove) {
  const nv = new Niivue(OPTIONS);
  await nv.attachToCanvas(canvas, false);
  nv.addColormap("freqbench-diverging", {
    R: DIVERGING.map(([red]) => red),
    G: DIVERGING.map(([, green]) => green),
    B: DIVERGING.map(([, , blue]) => blue),
    A: DIVERGING.map(() => 255),
    I: STOPS,
  });
  const stale = new Set();
  let shape = [1, 1, 1];
  let colours;
  nv.onLocationChange = ({ frac }) => onMove(shape.map((n, axis) => clamp(Math.floor(frac[axis] * n + 1e-4), n)));

  return {
    async setGrid(volume) {
      for (const old of [...nv.volumes]) nv.removeVolume(old);
      shape = volume.shape;
      colours = null;
      for (const kind of ["grey", "rgba"]) nv.addVolume(await layerLike(volume, kind));
    },
    setPicture(voxels, [low, high], isDiverging) {
      const [layer] = nv.volumes;
      const wanted = { img: voxels, cal_min: low, cal_max: high, _colormap: isDiverging ? "freqbench-diverging" : "gray" };
      if (Object.entries(wanted).every(([name, value]) => layer[name] === value)) return;
      Object.assign(layer, wanted);
      stale.add(0);
    },
    // Anew only where something of them changed: blinking and blending leave them alone.
    setColours(parts, paint) {
      if (colours?.every((part, n) => part === parts[n])) return;
      colours = parts;
      nv.volumes[1].img = paint();
      stale.add(1);
    },
    // Only the layers that changed are uploaded anew, which is what takes the time.
    draw() {
      for (const index of stale) nv.refreshLayers(nv.volumes[index], index);
      stale.clear();
      nv.drawScene();
    },
    setPlane: (plane) => nv.setSliceType(TYPES[plane]),
    moveTo(at) {
      this.follow(at);
      nv.createOnLocationChange();
    },
    follow(at) {
      nv.scene.crosshairPos = at.map((index, axis) => (index + 0.5) / shape[axis]);
      if (canvas.clientWidth) nv.drawScene();
    },
    planeUnder(event) {
      const box = canvas.getBoundingClientRect();
      const ratio = canvas.width / box.width;
      const tile = nv.screenSlices[nv.tileIndex((event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio)];
      return PLANES[tile?.axCorSag];
    },
    millimetres: () => Array.from(nv.frac2mm(nv.scene.crosshairPos, 0, true)).slice(0, 3),
    close() {
      nv.cleanup();
      nv.gl.getExtension("WEBGL_lose_context")?.loseContext();
    },
  };
}

const clamp = (index, length) => Math.min(Math.max(index, 0), length - 1);
