// Bundles src/ into ../dist/page.js, and the library of charts into ../dist/charts.js, which sets `window.Plotly`:
// `npm ci && npm run build`. Each says which sources it was made of.
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { build } from "esbuild";

const sources = [
  ...readdirSync("src")
    .sort()
    .map((name) => `src/${name}`),
  "build.mjs",
  "package-lock.json",
];
const hash = createHash("sha256");
for (const name of sources) hash.update(name).update("\0").update(readFileSync(name)).update("\0");
const mark = `/* freqbench page, sources sha256 ${hash.digest("hex")} */`;

const common = {
  outdir: "../dist",
  bundle: true,
  minify: true,
  format: "iife",
  target: "es2022",
  charset: "ascii",
  legalComments: "external",
  banner: { js: mark, css: mark },
  logLevel: "warning",
};
await build({ ...common, entryPoints: { page: "src/main.js" } });
await build({ ...common, entryPoints: { charts: "plotly.js-cartesian-dist-min" }, globalName: "Plotly" });

const bundled = ["ag-grid-community", "ag-stack", "plotly.js-cartesian-dist-min"];
const licences = bundled.map((name) => {
  const { version, license } = JSON.parse(readFileSync(`node_modules/${name}/package.json`));
  const file = readdirSync(`node_modules/${name}`).find((each) => /^licen[cs]e/i.test(each));
  const text = file ? readFileSync(`node_modules/${name}/${file}`, "utf8").trim() : `Licence: ${license}`;
  return `${name} ${version} (${license})\n\n${text}\n`;
});
for (const name of ["page", "charts"]) {
  const legal = `../dist/${name}.js.LEGAL.txt`; // what the bundled files say about parts of theirs
  if (!existsSync(legal)) continue;
  licences.push(readFileSync(legal, "utf8"));
  rmSync(legal);
}
writeFileSync("../dist/LICENSES.txt", licences.join("\n" + "-".repeat(80) + "\n\n").replace(/\r/g, ""));
