// The place of the volume viewer, which is a script of its own.

import { h } from "./dom.js";

export function volumes(panel, app) {
  const { data } = app;
  if (data.volumes && window.freqbenchViewer) {
    const box = h("div", { class: "viewer" });
    panel.append(box);
    window.freqbenchViewer.open(box, data.volumes);
  } else {
    panel.append(
      h("p", {}, "No volumes were saved with this report."),
      h(
        "p",
        {},
        "To look at slices here: put ",
        h("code", {}, "save_adversarial: nifti"),
        " into the job, run it, and make the page with ",
        h("code", {}, "freqbench report OUT --format html --volumes"),
        ".",
      ),
    );
  }
  return { update() {} };
}
