// `window.freqbenchViewer.open(element, manifest)`: a viewer in an element of the page.

import { make } from "./dom.js";
import { hasWebGL2 } from "./screen.js";
import { style } from "./styles.js";
import { start } from "./viewer.js";

const NO_WEBGL =
  "Volumes cannot be shown: this browser has no WebGL2, or it is switched off. Open the page in a current browser with " +
  "graphics acceleration. Tables and charts do not need it.";

async function open(element, manifest) {
  style();
  if (!manifest.cases.length) return said(element, "No volumes were saved with these results.");
  if (!hasWebGL2()) return said(element, NO_WEBGL);
  return start(element, manifest);
}

function said(element, text) {
  const line = make("p", { className: "fbv-problem", role: "alert", textContent: text });
  element.replaceChildren(make("div", { className: "fbv" }, line));
  return { show: async () => {}, state: () => null, close: () => element.replaceChildren() };
}

window.freqbenchViewer = { open };
