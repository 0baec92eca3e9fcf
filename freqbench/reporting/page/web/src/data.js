// The embedded object as columns: texts by code, numbers as Float64Array with NaN where they are missing.

export async function embedded() {
  const text = atob(document.getElementById("freqbench-data").textContent.trim());
  const stream = new Blob([Uint8Array.from(text, (letter) => letter.charCodeAt(0))]).stream();
  return new Response(stream.pipeThrough(new DecompressionStream("gzip"))).json();
}

class Frame {
  constructor(raw) {
    this.rows = raw?.rows ?? 0;
    this.texts = {};
    this.numbers = {};
    for (const [name, { values, codes }] of Object.entries(raw?.texts ?? {})) {
      this.texts[name] = { values, codes: Int32Array.from(codes) };
    }
    for (const [name, values] of Object.entries(raw?.numbers ?? {})) {
      this.numbers[name] = Float64Array.from(values, (value) => value ?? NaN);
    }
  }

  text(name, row) {
    const column = this.texts[name];
    return column ? (column.values[column.codes[row]] ?? null) : null;
  }

  number(name, row) {
    return this.numbers[name] ? this.numbers[name][row] : NaN;
  }
}

const SHARED = ["dataset", "source", "target", "attack", "family", "base", "threat", "budget_text", "transfer"];

/** Where each group of equal, neighbouring numbers begins: [begin, end) by number. */
function spans(numbers, count) {
  const found = Array.from({ length: count }, () => [0, 0]);
  for (let row = 0; row < numbers.length; row += 1) {
    const span = found[numbers[row]];
    if (span[1] === 0) span[0] = row;
    span[1] = row + 1;
  }
  return found;
}

export function decode(raw) {
  const data = { ...raw, summary: new Frame(raw.summary), clean: new Frame(raw.clean) };
  data.cases = raw.cases ? new Frame(raw.cases) : null;
  for (const name of ["class_means", "case_classes", "clean_classes"])
    data[name] = raw[name] ? new Frame(raw[name]) : null;
  if (data.cases) {
    const { row, classes } = data.cases.numbers;
    for (const name of SHARED) {
      const { values, codes } = data.summary.texts[name];
      data.cases.texts[name] = { values, codes: Int32Array.from(row, (index) => codes[index]) };
    }
    data.caseSpans = spans(row, data.summary.rows);
    data.classStarts = new Float64Array(data.cases.rows);
    for (let index = 1; index < data.cases.rows; index += 1) {
      data.classStarts[index] = data.classStarts[index - 1] + classes[index - 1];
    }
  }
  if (data.class_means) data.meanSpans = spans(data.class_means.numbers.row, data.summary.rows);
  if (data.clean_classes) {
    const blocks = data.clean_classes.numbers.block;
    data.cleanSpans = spans(blocks, (blocks.at(-1) ?? -1) + 1);
  }
  regional = data.regions;
  data.glimpseOf = new Map(data.glimpses.map((glimpse) => [glimpse.row, glimpse]));
  data.palette = data.class_colors.map((color) => [1, 3, 5].map((at) => Number.parseInt(color.slice(at, at + 2), 16)));
  data.scoreOf = Object.fromEntries(data.scores.map((score) => [score.name, score]));
  return data;
}

/** The attack of a row of the summary, marked where no paper has it in this form. */
export function named({ summary, attacks }, row) {
  return summary.text("attack", row) + (attacks[summary.text("base", row)]?.is_own ? OWN : "");
}

export const OWN = "\u00a0\u00b0";
export const OWN_NOTE = "\u00b0 this project's own form of the attack";

/** Whether a dataset's scores are against models' own clean predictions, as its name then says. */
export const agrees = (dataset) => dataset.endsWith(" (agreement)");

let regional = {}; // of the data that were decoded last: datasets whose classes are regions that may overlap

/** Calls the score and the classes in a text what they are on these datasets. */
export function worded(text, ...datasets) {
  const words = new Set(datasets.map((name) => (agrees(name) ? "agreement" : "DSC")));
  const scored = text.replaceAll("DSC", [...words].sort().join(" or ") || "DSC");
  if (!datasets.length || !datasets.every((name) => name in regional)) return scored;
  return scored.replaceAll(/\b(organ|class)(e?s)?\b/gi, (_, word, plural) => {
    const region = word[0] === word[0].toUpperCase() ? "Region" : "region";
    return plural ? `${region}s` : region;
  });
}

/** The words for the score of one case, wherever the page says one number. */
export const definition = (data, dataset) => worded(data.scoreOf.dsc_foreground.meaning, dataset);

/** The scores by name, each called what it is on these datasets. */
export function scoresOn(data, ...datasets) {
  const spoken = (score) => ["heading", "unit", "meaning"].map((part) => [part, worded(score[part], ...datasets)]);
  return Object.fromEntries(data.scores.map((score) => [score.name, { ...score, ...Object.fromEntries(spoken(score)) }]));
}

/** The rows of a frame against labels, and those of agreement: no mean or table has both. */
export function byKind(frame, rows) {
  const kinds = [false, true].map((kind) => rows.filter((row) => agrees(frame.text("dataset", row)) === kind));
  return kinds.filter((members) => members.length);
}

/** Why a number of a row is missing. */
export function reason(data, frame, row, name) {
  const error = frame.text("error", row);
  if (error) return `failed: ${error}`;
  const score = data.scoreOf[name];
  const source = name.endsWith("_drop") ? name.replace("_drop", "_clean") : (score?.source ?? name);
  const reasons = frame.text("null_reasons", row);
  if (reasons) {
    const parsed = JSON.parse(reasons);
    const why = parsed[source] ?? parsed[score?.source];
    if (why) return String(why);
  }
  const metric = score?.metric;
  if (metric && !(frame.text("metrics", row) ?? "").split(",").includes(metric))
    return `the job did not ask for ${metric}`;
  return "undefined on these volumes";
}

/** A row's name that survives a reload and new data. */
export function keyOf(data, level, row) {
  const frame = level === "cases" ? data.cases : data.summary;
  const parts = ["dataset", "source", "target", "attack"].map((name) => frame.text(name, row));
  if (level === "cases") parts.push(frame.text("case", row), String(frame.number("seed", row)));
  return JSON.stringify(parts);
}

export function findKey(data, key) {
  let parts;
  try {
    parts = JSON.parse(key);
  } catch {
    return null;
  }
  if (!Array.isArray(parts)) return null;
  const level = parts.length > 4 ? "cases" : "means";
  const frame = level === "cases" ? data.cases : data.summary;
  for (let row = 0; frame && row < frame.rows; row += 1) if (keyOf(data, level, row) === key) return { level, row };
  return null;
}

/** What computes a record again; empty where it failed. The store is called as the page's maker called it. */
export function commandOf(data, row) {
  if (data.cases.text("status", row) !== "ok") return "";
  const run = data.runs.find((each) => each.run_id === data.cases.text("run", row));
  const store = run?.store ?? "OUT";
  const quoted = /^[\w@%+=:,./-]+$/.test(store) ? store : `'${store.replaceAll("'", `'\\''`)}'`;
  return `freqbench audit ${quoted} --rows ${data.cases.text("id", row)}`;
}

/** Heading of a score; sizes of a change have their unit beside it. */
export function headed(score) {
  return /^(1\/255|intensity)/.test(score.unit) ? `${score.heading} (${score.unit})` : score.heading;
}

export function shown(value, digits) {
  return Number.isNaN(value) || value === undefined ? "" : (value + 0).toFixed(digits).replace(/^-(0\.?0*)$/, "$1");
}
