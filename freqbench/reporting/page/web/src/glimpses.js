// Small pictures of attacked cases, one a white-box row that has one: of the case that lost most.

import { h } from "./dom.js";

function picture({ summary, glimpseOf }, row) {
  const glimpse = glimpseOf.get(row);
  const alt = `Slice of ${glimpse.case} under ${summary.text("attack", row)} on ${summary.text("source", row)}: the clean volume, the adversarial one, the change, the label and predictions`;
  return h("img", { class: "glimpse", src: `data:image/webp;base64,${glimpse.image}`, alt, loading: "lazy" });
}

function lost({ glimpseOf }, row) {
  const { case: name, drop } = glimpseOf.get(row);
  return `${name} ${drop < 0 ? "gained" : "lost"} ${Math.abs(drop).toFixed(1)} points`;
}

/** The glimpse of a row of the summary, or null. */
export function worstCase(data, row) {
  if (!data.glimpseOf.has(row)) return null;
  return h("figure", { class: "worst" }, picture(data, row), h("figcaption", {}, `${lost(data, row)}, the most of all cases.`));
}

/** The glimpses of rows side by side; `open` is told the row of the one that is chosen. */
export function strip(data, rows, open) {
  const cards = rows.map((row) =>
    h(
      "li",
      {},
      h(
        "button",
        { type: "button", onclick: () => open(row) },
        picture(data, row),
        h("span", { class: "attack" }, data.summary.text("attack", row)),
        h("span", { class: "hint" }, lost(data, row)),
      ),
    ),
  );
  return h("ul", { class: "strip", tabindex: "0", "aria-label": "Glimpses, the largest drop first" }, cards);
}
