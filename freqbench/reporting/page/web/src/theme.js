// Light or dark: as the system has it, until the reader chooses.

import { h } from "./dom.js";
import * as state from "./state.js";

const system = matchMedia("(prefers-color-scheme: dark)");

export function themeButton(changed) {
  const root = document.documentElement;
  const button = h("button", {
    type: "button",
    class: "theme",
    onclick: () => state.set({ theme: root.dataset.shade === "dark" ? "light" : "dark" }),
  });
  const refresh = () => {
    const wanted = state.get("theme");
    const shade = wanted === "dark" || wanted === "light" ? wanted : system.matches ? "dark" : "light";
    if (root.dataset.shade === shade) return;
    root.dataset.shade = shade;
    button.textContent = shade === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", `switch to ${button.textContent.toLowerCase()} colours`);
    changed();
  };
  system.addEventListener("change", refresh);
  state.listen(refresh);
  refresh();
  return button;
}
