// The bar of filters above tables and charts; what is chosen stands in the URL.

import { h } from "./dom.js";
import { FILTERS, distinct } from "./rows.js";
import * as state from "./state.js";

const key = (name) => `f.${name}`;

export const chosen = (names = FILTERS.map(([name]) => name)) =>
  Object.fromEntries(names.map((name) => [name, state.all(key(name))]));

/** A menu of check boxes. */
function menu(name, label, options) {
  const summary = h("summary", {});
  const boxes = options.map((text) => {
    const box = h("input", { type: "checkbox", value: text, onchange: () => state.set({ [key(name)]: checked() }) });
    return h("label", { class: "option" }, box, h("span", {}, text));
  });
  const checked = () =>
    boxes
      .map((each) => each.firstChild)
      .filter((box) => box.checked)
      .map((box) => box.value);
  const find = h("input", {
    type: "search",
    placeholder: "find",
    "aria-label": `find among ${label}`,
    oninput: (event) => {
      const word = event.target.value.toLowerCase();
      for (const each of boxes) each.hidden = !each.textContent.toLowerCase().includes(word);
    },
  });
  const clear = h("button", { type: "button", class: "quiet", onclick: () => state.set({ [key(name)]: [] }) }, "all");
  const top = h("div", { class: "menu-top" }, options.length > 10 ? find : null, clear);
  const element = h(
    "details",
    { class: "menu" },
    summary,
    h("fieldset", {}, h("legend", { class: "sr" }, label), top, boxes),
  );
  element.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !element.open) return;
    element.open = false;
    summary.focus();
  });
  element.addEventListener("focusout", (event) => {
    if (event.relatedTarget && !element.contains(event.relatedTarget)) element.open = false;
  });
  const update = () => {
    const now = new Set(state.all(key(name)));
    for (const each of boxes) each.firstChild.checked = now.has(each.firstChild.value);
    const text = now.size === 0 ? "all" : now.size === 1 ? [...now][0] : `${now.size} of ${options.length}`;
    summary.replaceChildren(h("span", { class: "menu-name" }, label), " ", h("span", { class: "menu-value" }, text));
    element.classList.toggle("active", now.size > 0);
  };
  return { element, update };
}

/** The bar for some columns of a frame; those with one text only are left out. */
export function filterBar(frame, names = FILTERS.map(([name]) => name)) {
  const menus = FILTERS.filter(([name]) => names.includes(name))
    .map(([name, label]) => [name, label, distinct(frame, name)])
    .filter(([name, , options]) => options.length > 1 || state.all(key(name)).length)
    .map((each) => menu(...each));
  const reset = h(
    "button",
    {
      type: "button",
      class: "quiet",
      onclick: () => state.set(Object.fromEntries(names.map((name) => [key(name), []]))),
    },
    "Clear filters",
  );
  const element = h(
    "div",
    { class: "bar", role: "group", "aria-label": "filters" },
    menus.map((each) => each.element),
    reset,
  );
  const update = () => {
    for (const each of menus) each.update();
    element.hidden = !menus.length;
    reset.hidden = !names.some((name) => state.all(key(name)).length);
  };
  update();
  return { element, update };
}

addEventListener("pointerdown", (event) => {
  for (const each of document.querySelectorAll("details.menu[open]"))
    if (!each.contains(event.target)) each.open = false;
});
