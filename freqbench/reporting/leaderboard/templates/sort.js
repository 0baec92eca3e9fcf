"use strict";
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
