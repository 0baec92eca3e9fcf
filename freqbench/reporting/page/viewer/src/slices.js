// Arithmetic on voxels in the order x (right), y (anterior), z (superior): pure functions.

export const AXES = { axial: 2, coronal: 1, sagittal: 0 };

export const offset = ([nx, ny], [i, j, k]) => i + nx * (j + ny * k);

export const difference = (a, b) => a.map((value, n) => value - b[n]);

export const largest = (values) => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);

export const blended = (clean, adversarial, mix) => clean.map((value, n) => value + mix * (adversarial[n] - value));

// Clean on the left of the screen, adversarial from `1 - mix` of its width on: a slider at `1 - mix` is the border. Screens show the patient's right on the
// left, and the front on the right of a sagittal slice.
export function wiped(clean, adversarial, [nx, ny, nz], mix, plane) {
  const result = clean.slice();
  let n = 0;
  for (let k = 0; k < nz; k++) {
    for (let j = 0; j < ny; j++) {
      for (let i = 0; i < nx; i++, n++) {
        const across = plane === "sagittal" ? (j + 0.5) / ny : 1 - (i + 0.5) / nx;
        if (across > 1 - mix) result[n] = adversarial[n];
      }
    }
  }
  return result;
}

// The regions that each label lies in, the last in front: where nothing states them, the label's own class.
export const regionsOf = (stated = []) => Array.from({ length: 256 }, (_, label) => stated[label] ?? (label ? [label] : []));

// Voxels of a region with one beside them, within the plane, that is not in it; of several planes in any direction.
// Where outlines of several regions lie on each other, their colours take turns: in 7 voxels in a row of a slice, along a
// side or a diagonal, i + 2 j + 4 k has every remainder of 7.
export function outlined(labels, shape, plane, regions) {
  const [nx, ny, nz] = shape;
  const [x, y, z] = [0, 1, 2].map((axis) => axis !== AXES[plane]); // whether voxels beside each other along it count
  const beside = Array(6);
  const result = new Uint8Array(labels.length);
  let n = 0;
  for (let k = 0; k < nz; k++) {
    for (let j = 0; j < ny; j++) {
      for (let i = 0; i < nx; i++, n++) {
        const label = labels[n];
        if (!label) continue;
        beside[0] = !x ? label : i ? labels[n - 1] : 0;
        beside[1] = !x ? label : i < nx - 1 ? labels[n + 1] : 0;
        beside[2] = !y ? label : j ? labels[n - nx] : 0;
        beside[3] = !y ? label : j < ny - 1 ? labels[n + nx] : 0;
        beside[4] = !z ? label : k ? labels[n - nx * ny] : 0;
        beside[5] = !z ? label : k < nz - 1 ? labels[n + nx * ny] : 0;
        if (beside.every((other) => other === label)) continue;
        const ending = regions[label].filter((region) => beside.some((other) => !regions[other].includes(region)));
        if (ending.length) result[n] = ending[Math.floor((((i + 2 * j + 4 * k) % 7) * ending.length) / 7)];
      }
    }
  }
  return result;
}

// Every second stretch of lines, in whatever direction they go in a plane: 7 voxels along a row.
export function dashed(edges, [nx, ny, nz]) {
  const result = edges.slice();
  let n = 0;
  for (let k = 0; k < nz; k++) {
    for (let j = 0; j < ny; j++) {
      for (let i = 0; i < nx; i++, n++) if (Math.floor((i + 2 * j + 4 * k) / 7) % 2) result[n] = 0;
    }
  }
  return result;
}

// Outlines with others over them, each with its opacity 0 to 1: red, green, blue, alpha of each voxel.
export function painted(under, over, colors, opacity) {
  const words = new Uint32Array(under.length);
  const rgb = colors.map((color) => [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16)));
  const [solid, broken] = ["label", "prediction"].map((name) => rgb.map((color) => word(color, opacity[name])));
  for (let n = 0; n < words.length; n++) {
    if (over[n]) words[n] = broken[over[n]];
    else if (under[n]) words[n] = solid[under[n]];
  }
  return new Uint8Array(words.buffer);
}

const word = ([red, green, blue], alpha) => new Uint32Array(Uint8Array.of(red, green, blue, Math.round(255 * alpha)).buffer)[0];

// The slice across an axis with the largest sum of absolute values, and the middle of them in it; null where all are 0. With
// `counted` it is the slice with most of that, of those with at least a tenth of the largest sum.
export function focus(values, shape, axis, counted) {
  const sums = sumsOf(values, shape, axis);
  const most = largest(sums);
  if (most === 0) return null;
  const wanted = counted ? sumsOf(counted, shape, axis).map((sum, n) => (sums[n] >= most / 10 ? sum : -1)) : sums;
  const best = wanted.reduce((found, sum, n) => (sum > wanted[found] ? n : found), 0);
  const middle = [0, 0, 0];
  each(values, shape, (size, at) => {
    if (at[axis] === best) at.forEach((index, n) => (middle[n] += size * index));
  });
  return middle.map((sum, n) => (n === axis ? best : Math.round(sum / sums[best])));
}

function sumsOf(values, shape, axis) {
  const sums = new Float64Array(shape[axis]);
  each(values, shape, (size, at) => (sums[at[axis]] += size));
  return sums;
}

function each(values, [nx, ny, nz], take) {
  const at = [0, 0, 0];
  let n = 0;
  for (at[2] = 0; at[2] < nz; at[2]++) {
    for (at[1] = 0; at[1] < ny; at[1]++) {
      for (at[0] = 0; at[0] < nx; at[0]++, n++) if (values[n]) take(Math.abs(values[n]), at);
    }
  }
}

// The largest of 1, 2, 5, 10, ... that keeps the perturbation on the scale.
export function gainFor(most, gains) {
  return gains.filter((gain) => gain * most <= 1 + 1e-6).at(-1) ?? gains[0];
}
