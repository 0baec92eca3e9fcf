// The place of the volume viewer, which is a script of its own.

import { h } from "./dom.js";

export const hasVolumes = ({ data }) => Boolean(data.volumes?.cases.length && window.freqbenchViewer);

/** Points that a saved case lost on the model that it was made on. */
function lost({ dsc, source }) {
  const [clean, attacked] = dsc[source] ?? [];
  return (clean ?? 0) - (attacked ?? clean ?? 0);
}

export function volumes(panel, app) {
  const { data } = app;
  if (hasVolumes(app)) {
    const box = h("div", { class: "viewer" });
    panel.append(box);
    const [worst] = [...data.volumes.cases].sort((a, b) => lost(b) - lost(a));
    window.freqbenchViewer.open(box, data.volumes)?.then((viewer) => worst && viewer.show(worst));
  }
  return { update() {} };
}
