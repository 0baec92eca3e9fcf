// What the reader chose, kept in the URL's hash: a reload or a sent link shows the same.

const listeners = new Set();
let current = new URLSearchParams(location.hash.slice(1));

export const get = (name, otherwise = "") => current.get(name) ?? otherwise;
export const all = (name) => current.getAll(name);
export const listen = (listener) => listeners.add(listener);

/** Set some names; null, "" or [] take one away. `step`: a new entry in the browser's history. */
export function set(changes, { step = false } = {}) {
  const before = current.toString();
  for (const [name, value] of Object.entries(changes)) {
    current.delete(name);
    for (const each of Array.isArray(value) ? value : [value])
      if (each !== null && each !== "") current.append(name, each);
  }
  const after = current.toString();
  if (after === before) return;
  history[step ? "pushState" : "replaceState"](null, "", `#${after}`);
  notify();
}

function notify() {
  for (const listener of listeners) listener();
}

addEventListener("popstate", () => {
  current = new URLSearchParams(location.hash.slice(1));
  notify();
});
