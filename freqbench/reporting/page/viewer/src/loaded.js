// A case in memory, and what can be laid over it.

import { FileError } from "./files.js";
import { difference, largest } from "./slices.js";
import { readVolume } from "./volume.js";

export const OVERLAYS = [
  ["none", "nothing"],
  ["label", "label"],
  ["clean", "prediction on clean"],
  ["adversarial", "prediction on adversarial"],
];

// Reads each file once while it is among the last few: the clean volume and the label are shared by all attacks.
export function reader(manifest, most = 12) {
  const known = new Map();
  return (key, what) => {
    const found = known.get(key) ?? readVolume(manifest, key, what);
    known.delete(key);
    known.set(key, found);
    found.catch(() => known.delete(key));
    if (known.size > most) known.delete(known.keys().next().value);
    return found;
  };
}

export async function loadCase(read, chosen) {
  const [clean, adversarial] = await Promise.all([
    read(chosen.files.clean, "clean volume"),
    read(chosen.files.adversarial, "adversarial volume"),
  ]);
  requireGrid(clean, adversarial, "adversarial volume");
  const maps = { label: await classes(read, chosen.files.label, "label", clean) };
  return { clean, adversarial, maps, channels: Math.min(clean.channels, adversarial.channels) };
}

export async function loadPredictions(read, chosen, target, clean) {
  const files = chosen.files.predictions[target] ?? {};
  const names = ["clean", "adversarial"];
  const maps = await Promise.all(names.map((name) => classes(read, files[name], `prediction on ${name}`, clean)));
  return Object.fromEntries(names.map((name, n) => [name, maps[n]]));
}

export function ofChannel({ clean, adversarial }, channel) {
  const volumes = { clean: clean.voxels[channel], adversarial: adversarial.voxels[channel] };
  const change = difference(volumes.adversarial, volumes.clean);
  return { ...volumes, change, most: largest(change) };
}

async function classes(read, key, what, clean) {
  if (!key) return null;
  const volume = await read(key, what);
  requireGrid(clean, volume, what);
  return Uint8Array.from(volume.voxels[0]);
}

function requireGrid(clean, other, what) {
  if (String(clean.shape) !== String(other.shape)) {
    throw new FileError(`${what}: ${other.shape.join(" x ")} voxels, the clean volume has ${clean.shape.join(" x ")}`);
  }
}
