import "./style.css";
import { audit } from "./audit.js";
import { curves, hasCurves } from "./curves.js";
import { decode, embedded, worded } from "./data.js";
import { away, h } from "./dom.js";
import { openRow } from "./drill.js";
import { explorer } from "./explorer.js";
import { matrix } from "./matrix.js";
import { organs } from "./organs.js";
import { overview } from "./overview.js";
import { robustness } from "./robustness.js";
import { distinct } from "./rows.js";
import { runFacts } from "./runfacts.js";
import * as state from "./state.js";
import { themeButton } from "./theme.js";
import { hasVolumes, volumes } from "./volumes.js";

/** Name, text, what fills it, and whether it has something to show, of each tab. */
const TABS = [
  ["overview", "Overview", overview],
  ["table", "Table", explorer],
  ["transfer", "Transfer", matrix],
  ["curves", "Curves", curves, ({ data }) => hasCurves(data)],
  ["organs", "Organs", organs, ({ data }) => Boolean(data.class_means ?? data.omitted.class_means)],
  ["robustness", "Defences", robustness, ({ data }) => data.tables.length > 0],
  ["audit", "Audit", audit, ({ data }) => Boolean(data.audit?.findings.length)],
  ["volumes", "Volumes", volumes, hasVolumes],
  ["facts", "Run facts", runFacts],
];

const app = { data: null };
const views = new Map();
const title = h("h1", {}, "freqbench");
const subtitle = h("p", { class: "hint" });
const tabs = TABS.map(([name, text]) =>
  h(
    "button",
    {
      type: "button",
      role: "tab",
      id: `tab-${name}`,
      "aria-controls": `panel-${name}`,
      onclick: () => state.set({ tab: name === "overview" ? null : name }, { step: true }),
    },
    text,
  ),
);
const panels = TABS.map(([name, text]) =>
  h("section", {
    role: "tabpanel",
    id: `panel-${name}`,
    "aria-labelledby": `tab-${name}`,
    "aria-label": text,
    hidden: true,
  }),
);
const isAbsent = ([, , , has]) => Boolean(has && !(app.data && has(app)));
const bar = h("div", { role: "tablist", "aria-label": "sections", class: "tabs", onkeydown: moveTab }, tabs);

function moveTab(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  const present = tabs.filter((tab) => !tab.hidden);
  const here = present.indexOf(document.activeElement);
  const next =
    event.key === "Home"
      ? 0
      : event.key === "End"
        ? present.length - 1
        : step
          ? (here + step + present.length) % present.length
          : -1;
  if (next < 0 || here < 0) return;
  event.preventDefault();
  present[next].focus();
  present[next].click();
}

function current() {
  const place = TABS.findIndex((each) => each[0] === state.get("tab") && !isAbsent(each));
  return place < 0 ? 0 : place;
}

function show() {
  const place = current();
  tabs.forEach((tab, index) => {
    tab.setAttribute("aria-selected", String(index === place));
    tab.tabIndex = index === place ? 0 : -1;
    tab.hidden = isAbsent(TABS[index]);
  });
  panels.forEach((panel, index) => (panel.hidden = index !== place));
  if (!app.data) return;
  const [name, , make] = TABS[place];
  if (views.has(name)) views.get(name).update();
  else views.set(name, make(panels[place], app));
  if (name !== "table") openRow(app.data, null);
}

/** Leads to the text of the first job. */
function showJob() {
  state.set({ tab: "facts" }, { step: true });
  const text = document.querySelector("#panel-facts details.job");
  text.open = true;
  text.scrollIntoView();
  text.querySelector("summary").focus();
}

/** Shows the page's data. */
function take(raw) {
  app.data = decode(raw);
  TABS.forEach(([, text], index) => {
    tabs[index].textContent = worded(text, ...distinct(app.data.summary, "dataset"));
    panels[index].setAttribute("aria-label", tabs[index].textContent);
  });
  title.textContent = app.data.title;
  const made = `freqbench ${app.data.version}, ${app.data.made_at.replace("T", " ").slice(0, 16)} UTC`;
  const job = app.data.jobs.length && h("button", { type: "button", class: "link", onclick: showJob }, "Job");
  const links = [job, app.data.docs && away(app.data.docs, "Documentation")].filter(Boolean);
  subtitle.replaceChildren(made, ...links.flatMap((link) => [" \u00b7 ", link]));
  show();
}

document.getElementById("app").append(
  h(
    "a",
    {
      class: "skip",
      href: "#",
      onclick: (event) => {
        event.preventDefault();
        panels[current()].querySelector("button,select,input,[tabindex]")?.focus();
      },
    },
    "Skip to content",
  ),
  h(
    "header",
    {},
    h("div", {}, title, subtitle),
    themeButton(() => views.get(TABS[current()][0])?.restyle?.()),
  ),
  h("nav", {}, bar),
  h("main", {}, panels),
);
state.listen(show);
show();

embedded().then(take);
