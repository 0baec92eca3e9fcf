// Bundles the viewer: dist/viewer.js, which says the hash of what it was made of, and the licences of all in it.

import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { build } from "esbuild";

const DIST = "../dist";
const SOURCES = ["build.js", "package-lock.json", "package.json", ...readdirSync("src").map((name) => `src/${name}`)].sort();

const hash = createHash("sha256");
for (const path of SOURCES) hash.update(`${path}\n`).update(readFileSync(path)).update("\n");

const { metafile, outputFiles } = await build({
  entryPoints: ["src/main.js"],
  outfile: `${DIST}/viewer.js`,
  bundle: true,
  minify: true,
  format: "iife",
  target: "es2022",
  charset: "ascii",
  legalComments: "none",
  metafile: true,
  write: false,
  alias: { zarrita: "./src/no-zarr.js" },
  banner: { js: `/* freqbench viewer, sources ${hash.digest("hex")}; licences in viewer.LICENSES.txt */` },
});

const used = new Set(Object.keys(metafile.outputs[`${DIST}/viewer.js`].inputs).flatMap((path) => path.match(/node_modules\/((?:@[^/]+\/)?[^/]+)/)?.[1] ?? []));
const texts = [...used].sort().map(licence);
mkdirSync(DIST, { recursive: true });
// The page holds this script between tags, which no text within may open: NiiVue has one that does.
writeFileSync(`${DIST}/viewer.js`, outputFiles[0].text.replaceAll("<script", "<\\x73cript"));
writeFileSync(`${DIST}/viewer.LICENSES.txt`, `viewer.js contains the following packages.\n\n${texts.join("\n\n")}\n`);

function licence(name) {
  const folder = `node_modules/${name}`;
  const { version, license } = JSON.parse(readFileSync(`${folder}/package.json`, "utf8"));
  const own = readdirSync(folder).find((each) => /^(licen[cs]e|copying)/i.test(each));
  const file = own ? `${folder}/${own}` : `licences/${name.replace("/", "-")}.txt`;
  if (!existsSync(file)) throw new Error(`${name}: expected its licence, found none: put it into ${file}`);
  return `== ${name} ${version} (${license}) ==\n\n${readFileSync(file, "utf8").trim()}`;
}
