"use strict";
// Shows one board at a time, the one that the address names or the first; without this script all stand below each other.
const contents = document.querySelector(".contents");
if (contents) {
  const links = [...contents.querySelectorAll("a")];
  const choice = document.createElement("select");
  choice.append(...links.map((link) => new Option(link.textContent, link.hash)));
  const show = () => {
    for (const { hash } of links) document.querySelector(hash).hidden = hash !== choice.value;
  };
  const follow = () => {
    if (links.some((link) => link.hash === location.hash)) choice.value = location.hash;
    show();
  };
  choice.addEventListener("change", () => {
    history.replaceState(null, "", choice.value);
    show();
  });
  window.addEventListener("hashchange", follow);
  const label = document.createElement("label");
  label.append("Threat model ", choice);
  contents.replaceWith(label);
  follow();
}

// Sorts a table by the column whose heading is pressed: numbers as numbers, empty cells last.
const order = new Intl.Collator("en", { numeric: true });
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) =>
    heading.querySelector("button").addEventListener("click", () => {
      const rising = heading.getAttribute("aria-sort") !== "ascending";
      for (const each of headings) each.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const text = (row) => row.cells[column].textContent.trim();
      const body = table.tBodies[0];
      const compared = (a, b) => {
        const [x, y] = [text(a), text(b)];
        if (!x || !y) return (x ? 0 : 1) - (y ? 0 : 1);
        const difference = x - y; // NaN where either is no number
        return (rising ? 1 : -1) * (Number.isNaN(difference) ? order.compare(x, y) : difference);
      };
      body.append(...[...body.rows].sort(compared));
    }),
  );
}
