// Elements made by code: everything from data becomes text, never markup.

export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, text] of Object.entries(value)) element.style.setProperty(key, text);
    else if (name in element && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(
    ...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false),
  );
  return element;
}

/** A section that a report has ready: title, text and table. */
export function readyTable({ title, text, columns, rows }) {
  return [h("h3", {}, title), text && h("p", {}, text), rows.length ? table(title, columns, rows) : ""];
}

/** A table of plain cells. A column: {heading, number, title}; a row: a heading's text, or cells: text, element, {text, title}. */
export function table(caption, columns, rows, attributes = {}) {
  const cell = (value, column, index) => {
    const isRich = value !== null && typeof value === "object" && !(value instanceof Node);
    const content = isRich ? value.text : value;
    const title = isRich ? value.title : null;
    const shown = content ?? "";
    const tag = index === 0 ? "th" : "td";
    const isMissing = shown === "" && Boolean(title);
    const names = [column.number ? "number" : "", isMissing ? "missing" : ""].filter(Boolean).join(" ");
    const extra = { class: names || null, title, scope: index === 0 ? "row" : null };
    return h(tag, extra, shown, isMissing ? h("span", { class: "sr" }, `empty: ${title}`) : null);
  };
  const head = columns.map((column) =>
    h("th", { scope: "col", class: column.number ? "number" : null, title: column.title }, column.heading),
  );
  const body = rows.map((row) =>
    typeof row === "string"
      ? h("tr", { class: "heading" }, h("th", { scope: "rowgroup", colspan: String(columns.length) }, h("span", {}, row)))
      : h(
          "tr",
          {},
          row.map((value, index) => cell(value, columns[index], index)),
        ),
  );
  return scroller(caption, h("table", attributes, h("caption", {}, h("span", {}, caption)), h("thead", {}, h("tr", {}, head)), h("tbody", {}, body)));
}

/** A table that scrolls where it is too wide; its edge fades while there is more. */
export function scroller(caption, content) {
  const element = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, content);
  const look = () => element.classList.toggle("more", element.scrollLeft + element.clientWidth < element.scrollWidth - 1);
  element.addEventListener("scroll", look, { passive: true });
  new ResizeObserver(look).observe(element);
  return element;
}

/** A link that leaves the page. */
export const away = (href, text) => h("a", { href, target: "_blank", rel: "noopener noreferrer" }, text);

/** The paper of a row's attack as `made` shows it, linked where it has an address; null where none is known. */
export function paperOf({ summary, attacks }, row, made) {
  const { paper, link } = attacks[summary.text("base", row)] ?? {};
  return paper ? made(link ? away(link, paper) : paper) : null;
}

/** A labelled choice. Options: texts, or [value, text]. */
export function choice(label, options, value, change) {
  const list = options.map((option) => (Array.isArray(option) ? option : [option, option]));
  const select = h(
    "select",
    { onchange: (event) => change(event.target.value) },
    list.map(([key, text]) => h("option", { value: key, selected: key === value }, text)),
  );
  return h("label", { class: "choice" }, h("span", {}, label), select);
}

/** Gives the options of a choice other texts. */
export function reword(control, options) {
  const texts = new Map(options);
  for (const option of control.querySelectorAll("option")) option.textContent = texts.get(option.value);
}

/** What makes the name of a dataset's class, by its number, beside its colour. */
export function classCells(data, dataset) {
  const known = new Map((data.classes[dataset] ?? []).map(([index, name]) => [index, name]));
  return (index) =>
    h(
      "span",
      { class: "class-name" },
      h("span", { class: "swatch", style: { background: data.class_colors[index] }, "aria-hidden": "true" }),
      known.get(index) ?? `class ${index}`,
    );
}

/** Text for Plotly, which reads some tags and entities in its labels. */
export const escaped = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

export const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
