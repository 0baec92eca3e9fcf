// Elements. What comes from data becomes text, never markup.

let count = 0;

export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element && !name.includes("-")) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export const button = (text, onclick, properties = {}) => make("button", { type: "button", textContent: text, onclick, ...properties });

export function labelled(text, control) {
  control.id ||= `fb-viewer-${++count}`;
  return make("div", { className: "fbv-field" }, make("label", { htmlFor: control.id, textContent: text }), control);
}

export function select(onchange) {
  const element = make("select");
  element.onchange = () => onchange(element.value);
  return element;
}

// Options as [value, text]; keeps the choice where it is still there. Returns the choice.
export function fill(element, options, wanted) {
  element.replaceChildren(...options.map(([value, text]) => make("option", { value, textContent: text })));
  element.value = options.some(([value]) => value === wanted) ? wanted : (options[0]?.[0] ?? "");
  element.disabled = options.length < 2;
  return element.value;
}

export function slider(min, max, step, oninput) {
  const element = make("input", { type: "range", min, max, step });
  element.oninput = () => oninput(Number(element.value));
  return element;
}

export function number(onchange) {
  const element = make("input", { type: "number", step: "any" });
  element.onchange = () => onchange(element.valueAsNumber);
  return element;
}

export const group = (title, ...children) =>
  make("fieldset", { className: "fbv-group" }, make("legend", { textContent: title }), ...children);

// Buttons of which one is pressed.
export function choice(name, options, onchoose) {
  const buttons = options.map(([value, text, title]) =>
    button(text, () => onchoose(value), { title, "data-value": value, "aria-pressed": "false" }),
  );
  const element = make("div", { className: "fbv-choice", role: "group", "aria-label": name }, ...buttons);
  const show = (value) => buttons.forEach((each) => each.setAttribute("aria-pressed", String(each.dataset.value === value)));
  return { element, show };
}
