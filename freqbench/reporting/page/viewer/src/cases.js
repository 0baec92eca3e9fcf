// Which case is wanted: each select offers what there is with the choices before it.

import { fill } from "./dom.js";

const caseName = (each) => `${each.dataset}: ${each.case}`;

export function chosenCase(cases, fields, wanted) {
  const unique = (rows, text) => [...new Map(rows.map((row) => [text(row), text(row)])).entries()];
  let rows = cases;
  for (const [name, text] of [["case", caseName], ["source", (row) => row.source], ["attack", (row) => row.attack]]) {
    const value = fill(fields[name].control, unique(rows, text), wanted[name]);
    wanted[name] = value;
    rows = rows.filter((row) => text(row) === value);
  }
  const [chosen] = rows;
  const targets = Object.keys(chosen.files.predictions);
  wanted.target = fill(fields.target.control, targets.length ? targets.map((name) => [name, name]) : [["", "none saved"]], wanted.target);
  return chosen;
}

export const wantedOf = (row) => ({ case: caseName(row), source: row.source, attack: row.attack });

export function factsOf(manifest, chosen, target) {
  const score = chosen.dsc?.[target];
  const percent = (value) => (value == null ? "undefined" : (100 * value).toFixed(1));
  const name = chosen.dataset.endsWith(" (agreement)") ? "agreement" : "DSC";
  const words = manifest.score.replace("DSC", `${name} x100`).replace("organs", manifest.regions[chosen.dataset] ? "regions" : "organs");
  const parts = score ? [`${target}: ${percent(score[0])} on clean, ${percent(score[1])} on adversarial (${words}).`] : [];
  if (manifest.rounding) parts.push(`Intensities were rounded by at most ${manifest.rounding.toPrecision(2)} of 0 to 1.`);
  if (manifest.bytes) parts.push(`All volumes of this page: ${(manifest.bytes / 1e6).toFixed(1)} MB.`);
  return [...parts, ...(manifest.notes ?? [])].join(" ");
}
