// Can the numbers be believed? A verdict a model, then each check with what was found.

import { worded } from "./data.js";
import { choice, h, plural, table } from "./dom.js";
import { distinct } from "./rows.js";
import * as state from "./state.js";

const VERDICTS = ["violated", "in doubt", "holds", "noted", "not checked"];

export function audit(panel, app) {
  const { data } = app;
  const { models, findings, notes } = data.audit;
  panel.append(
    h("h3", {}, "Can the numbers be believed?"),
    table(
      "Masked gradients and claims, by model",
      [{ heading: "model" }, { heading: "dataset" }, { heading: "verdict" }, { heading: "what was found" }],
      models.map((each) => [each.model, each.dataset, mark(each.verdict, each.label), each.sentence]),
      { class: "prose" },
    ),
    h("h3", {}, "Checks"),
  );
  const verdicts = choice("verdict", [["", "all"], ...VERDICTS], state.get("verdict"), (value) =>
    state.set({ verdict: value }),
  );
  const status = h("p", { class: "status", role: "status" });
  const place = h("div", {});
  panel.append(
    h("div", { class: "bar" }, verdicts),
    status,
    place,
    h("h3", {}, "How to read this"),
    h(
      "ul",
      {},
      notes.map((text) => h("li", {}, worded(text, ...distinct(data.summary, "dataset")))),
    ),
  );

  function update() {
    const wanted = VERDICTS.find((verdict) => verdict === state.get("verdict")) ?? "";
    verdicts.querySelector("select").value = wanted;
    const kept = findings.filter((each) => !wanted || each.verdict === wanted);
    status.textContent = `${plural(kept.length, "finding")}${kept.length < findings.length ? ` of ${findings.length}` : ""}`;
    const headings = new Map();
    for (const each of kept) {
      const heading = each.model ? `${each.model} on ${each.dataset}` : `all models on ${each.dataset}`;
      if (!headings.has(heading)) headings.set(heading, []);
      const subject = each.subject ? `${each.should}: ${each.subject}` : each.should;
      headings.get(heading).push([worded(subject, each.dataset), mark(each.verdict), each.sentence]);
    }
    const rows = [...headings].sort(([a], [b]) => (a < b ? -1 : 1)).flatMap(([heading, lines]) => [heading, ...lines]);
    place.replaceChildren(
      table(
        "What should hold, and what was found",
        [{ heading: "what should hold" }, { heading: "verdict" }, { heading: "what was found" }],
        rows,
        { class: "prose" },
      ),
    );
  }
  update();
  return { update };
}

function mark(verdict, label = verdict) {
  return h("span", { class: `verdict ${verdict.replaceAll(" ", "-")}` }, label);
}
