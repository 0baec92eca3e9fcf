// Intensities as a reader knows them: in the file's unit where the results state what 0 and 1 are in it.

export const PRESETS = [["40 400", "soft tissue"], ["-600 1500", "lung"], ["400 1800", "bone"]]; // level and width in HU

export function scaleOf({ ranges, unit }, channel) {
  const isKnown = Boolean(ranges[channel]);
  const [low, high] = ranges[channel] ?? [0, 1];
  const digits = Math.min(Math.max(3 - Math.floor(Math.log10(Math.abs(high - low) || 1)), 0), 6);
  return { isKnown, low, high, digits, unit: isKnown ? unit || "file's unit" : "0 to 1", suffix: unit && isKnown ? ` ${unit}` : "" };
}

export const native = ({ low, high }, value) => low + (high - low) * value;

// Level and width of what is shown; without a choice, of all.
export const windowOf = ({ low, high }, wanted) => wanted ?? { level: (low + high) / 2, width: high - low };

// The values that are black and white on the scale 0 to 1.
export function greys(scale, wanted) {
  if (!wanted) return [0, 1];
  return [-0.5, 0.5].map((side) => (wanted.level + side * wanted.width - scale.low) / (scale.high - scale.low));
}

export function scaleText({ isKnown, low, high, suffix }) {
  if (!isKnown) return "On the network's scale, 0 to 1: these results do not state the file's unit.";
  const ends = [low, high].map((end) => `${Number(end.toPrecision(6))}${suffix}`);
  const lead = suffix ? "In brackets" : "In the file's unit; in brackets";
  return `${lead}: the network's scale, where 0 is ${ends[0]} and 1 is ${ends[1]}. What lies beyond is cut off.`;
}
