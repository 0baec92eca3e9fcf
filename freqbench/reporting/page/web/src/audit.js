// Can the numbers be believed? A verdict a model, then each check with what was found.

import { worded } from "./data.js";
import { choice, h, plural, table } from "./dom.js";
import { distinct } from "./rows.js";
import * as state from "./state.js";

const VERDICTS = ["violated", "in doubt", "holds", "noted", "not checked"];

const DECIDE = ["violated", "in doubt"];
const LISTS = / (Noted|Not checked): [^.]*\.$/; // of checks, which stand below

export function audit(panel, app) {
  const { data } = app;
  const { models, findings, notes } = data.audit;
  const said = (sentence) => sentence.replace(LISTS, "").replace(LISTS, "");
  const verdicts = choice("verdict", [["", "all"], ...VERDICTS], state.get("verdict"), (value) =>
    state.set({ verdict: value }),
  );
  const status = h("p", { class: "status", role: "status" });
  const place = h("div", {});
  const all = h("details", { open: Boolean(state.get("verdict")) }, h("summary", {}, `All ${plural(findings.length, "finding")}`), h("div", { class: "bar" }, verdicts), status, place);
  panel.append(
    table(
      "Can the numbers be believed? A verdict by model",
      [{ heading: "model" }, { heading: "dataset" }, { heading: "verdict" }, { heading: "why" }],
      models.map((each) => [each.model, each.dataset, mark(each.verdict, each.label), said(each.sentence)]),
      { class: "prose" },
    ),
    listed("Checks that are violated or in doubt", findings.filter((each) => DECIDE.includes(each.verdict))),
    all,
    h("details", {}, h("summary", {}, "How to read this"), h("ul", {}, notes.map((text) => h("li", {}, worded(text, ...distinct(data.summary, "dataset")))))),
  );

  function update() {
    const wanted = VERDICTS.find((verdict) => verdict === state.get("verdict")) ?? "";
    verdicts.querySelector("select").value = wanted;
    const kept = findings.filter((each) => !wanted || each.verdict === wanted);
    status.textContent = `${plural(kept.length, "finding")}${kept.length < findings.length ? ` of ${findings.length}` : ""}`;
    place.replaceChildren(listed("What should hold, and what was found", kept));
  }
  update();
  return { update };
}

/** Findings below the model that they are about. */
function listed(caption, findings) {
  const headings = new Map();
  for (const each of findings) {
    const heading = each.model ? `${each.model} on ${each.dataset}` : `all models on ${each.dataset}`;
    if (!headings.has(heading)) headings.set(heading, []);
    const subject = each.subject ? `${each.should}: ${each.subject}` : each.should;
    headings.get(heading).push([worded(subject, each.dataset), mark(each.verdict), each.sentence]);
  }
  if (!headings.size) return h("p", {}, "No check is violated or in doubt.");
  const rows = [...headings].sort(([a], [b]) => (a < b ? -1 : 1)).flatMap(([heading, lines]) => [heading, ...lines]);
  return table(caption, [{ heading: "what should hold" }, { heading: "verdict" }, { heading: "what was found" }], rows, { class: "prose" });
}

function mark(verdict, label = verdict) {
  return h("span", { class: `verdict ${verdict.replaceAll(" ", "-")}` }, label);
}
