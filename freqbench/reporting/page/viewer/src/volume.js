// Volumes in memory: voxels as numbers, in the order right, anterior, superior whatever the file's is.

import { NVImage } from "@niivue/niivue";
import { FileError, volumeBytes } from "./files.js";

export async function readVolume(manifest, key, what) {
  const bytes = await volumeBytes(manifest, key);
  let image;
  try {
    image = await NVImage.new(bytes, `${key}.nii.gz`);
  } catch {
    throw new FileError(`${what}: not a readable NIfTI file: write the volumes again`);
  }
  const [, nx, ny, nz] = image.dimsRAS ?? [];
  const count = nx * ny * nz;
  if (!image.img || !(count > 0) || image.img.length < count) throw new FileError(`${what}: fewer voxels than its header says`);
  const channels = Math.floor(image.img.length / count);
  return { shape: [nx, ny, nz], channels, voxels: Array.from({ length: channels }, (_, c) => ordered(image, c * count)), image };
}

function ordered({ img, hdr, img2RASstart: start, img2RASstep: step, dimsRAS }, offset) {
  const [, nx, ny, nz] = dimsRAS;
  const slope = hdr.scl_slope || 1;
  const voxels = new Float32Array(nx * ny * nz);
  let n = 0;
  for (let k = 0; k < nz; k++) {
    for (let j = 0; j < ny; j++) {
      let at = offset + start[0] + start[1] + start[2] + j * step[1] + k * step[2];
      for (let i = 0; i < nx; i++, at += step[0]) voxels[n++] = img[at] * slope + hdr.scl_inter;
    }
  }
  return voxels;
}

// A layer on the same grid, whose voxels the viewer writes: `grey` numbers or `rgba`, four bytes a voxel.
export async function layerLike({ image, shape }, kind) {
  const layer = new NVImage();
  layer.hdr = await image.hdr2RAS(1);
  const count = shape[0] * shape[1] * shape[2];
  const type = kind === "grey" ? { datatypeCode: 16, numBitsPerVoxel: 32 } : { datatypeCode: 2304, numBitsPerVoxel: 32 };
  Object.assign(layer.hdr, type, { scl_slope: 1, scl_inter: 0 });
  layer.img = kind === "grey" ? new Float32Array(count) : new Uint8Array(4 * count);
  layer.init();
  Object.assign(layer, { nFrame4D: 1, nTotalFrame4D: 1, nVox3D: count });
  layer.calculateRAS();
  Object.assign(layer, { cal_min: 0, cal_max: 1, robust_min: 0, robust_max: 1, global_min: 0, global_max: 1 });
  return layer;
}
