// Small pictures of attacked cases, one a white-box row that has one: of the case that lost most.

import { h } from "./dom.js";

/** The glimpse of a row of the summary as an image, or null. */
export function picture(data, row) {
  const glimpse = data.glimpseOf.get(row);
  if (!glimpse) return null;
  const { summary } = data;
  const alt = `Slice of ${glimpse.case} under ${summary.text("attack", row)} on ${summary.text("source", row)}: the clean volume, the adversarial one, the change, the label and predictions`;
  return h("img", { class: "glimpse", src: `data:image/webp;base64,${glimpse.image}`, alt, loading: "lazy" });
}

/** The glimpses of rows side by side; `open` is told the row of the one that is chosen. */
export function strip(data, rows, open) {
  const { summary } = data;
  const cards = rows.map((row) => {
    const { case: name, drop } = data.glimpseOf.get(row);
    const lost = drop >= 0 ? `${name} lost ${drop.toFixed(1)} points` : `${name} gained ${(-drop).toFixed(1)} points`;
    return h(
      "li",
      {},
      h(
        "button",
        { type: "button", onclick: () => open(row) },
        picture(data, row),
        h("span", { class: "attack" }, summary.text("attack", row)),
        h("span", { class: "hint" }, lost),
      ),
    );
  });
  return h("ul", { class: "strip", tabindex: "0", "aria-label": "Glimpses, the largest drop first" }, cards);
}
