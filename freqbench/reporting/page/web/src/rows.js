// Which rows are shown, in which order: plain loops over columns, so that 100,000 rows take milliseconds.

export const FILTERS = [
  ["dataset", "Dataset"],
  ["source", "Source"],
  ["target", "Target"],
  ["transfer", "Setting"],
  ["threat", "Threat model"],
  ["base", "Attack"],
  ["budget_text", "Budget"],
];

const collator = new Intl.Collator("en", { numeric: true });
const ranks = new WeakMap();

/** The place of each code of a text column in alphabetical order; numbers in texts count as numbers. */
function rankOf(column) {
  if (!ranks.has(column)) {
    const order = column.values.map((_, code) => code);
    order.sort((a, b) => collator.compare(column.values[a], column.values[b]));
    const rank = new Float64Array(order.length);
    order.forEach((code, place) => (rank[code] = place));
    ranks.set(column, rank);
  }
  return ranks.get(column);
}

/** Sort key of each row, NaN where it has none. */
function keys(frame, name) {
  if (frame.numbers[name]) return frame.numbers[name];
  const column = frame.texts[name];
  if (!column) return null;
  const rank = rankOf(column);
  return Float64Array.from(column.codes, (code) => (code < 0 ? NaN : rank[code]));
}

/** A mask over a column's codes for the wanted texts; null: all are wanted. */
function wanted(column, texts) {
  if (!texts.length || !column) return null;
  const names = new Set(texts);
  return Uint8Array.from(column.values, (value) => names.has(value));
}

/** The rows of a frame that pass: `filters` {column: texts}, `query` words that must occur in a text of the row. */
export function passing(frame, filters, query) {
  const tests = Object.entries(filters)
    .map(([name, texts]) => [frame.texts[name]?.codes, wanted(frame.texts[name], texts)])
    .filter(([, mask]) => mask);
  for (const word of query.toLowerCase().split(/\s+/).filter(Boolean)) tests.push([null, wordMask(frame, word)]);
  const found = new Uint32Array(frame.rows);
  let count = 0;
  for (let row = 0; row < frame.rows; row += 1) {
    let passes = true;
    for (const [codes, mask] of tests) if (!mask[codes ? codes[row] : row]) passes = false;
    if (passes) found[count++] = row;
  }
  return found.subarray(0, count);
}

/** Which rows have a word in one of their names. */
function wordMask(frame, word) {
  const mask = new Uint8Array(frame.rows);
  for (const name of ["attack", "dataset", "source", "target", "threat", "case", "patient"]) {
    const column = frame.texts[name];
    if (!column) continue;
    const hits = Uint8Array.from(column.values, (value) => value.toLowerCase().includes(word));
    for (let row = 0; row < frame.rows; row += 1) if (hits[column.codes[row]]) mask[row] = 1;
  }
  return mask;
}

/** Sorted by a column, what is missing last. */
export function sorted(frame, rows, name, isDescending) {
  const values = name ? keys(frame, name) : null;
  if (!values) return rows;
  const known = rows.filter((row) => !Number.isNaN(values[row]));
  const missing = rows.filter((row) => Number.isNaN(values[row]));
  known.sort(isDescending ? (a, b) => values[b] - values[a] || a - b : (a, b) => values[a] - values[b] || a - b);
  const both = new Uint32Array(rows.length);
  both.set(known);
  both.set(missing, known.length);
  return both;
}

/** Rows group by group, each after its heading: a list of rows, -1 - n for the nth heading, and the headings. */
export function grouped(rows, headingOf) {
  const groups = new Map();
  for (const row of rows) {
    const heading = headingOf(row);
    if (!groups.has(heading)) groups.set(heading, []);
    groups.get(heading).push(row);
  }
  const headings = [...groups.keys()].sort(collator.compare);
  const list = new Int32Array(rows.length + headings.length);
  let place = 0;
  headings.forEach((heading, number) => {
    list[place++] = -1 - number;
    for (const row of groups.get(heading)) list[place++] = row;
  });
  return { list, headings };
}

/** The distinct texts of a column in reading order. */
export function distinct(frame, name) {
  const values = frame.texts[name]?.values ?? [];
  return values.filter((value) => value !== "").sort(collator.compare);
}
