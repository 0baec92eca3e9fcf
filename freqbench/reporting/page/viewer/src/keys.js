// The keyboard. Within a control that takes the arrows itself they stay its own.

export const HELP = [
  ["Up, Down / wheel", "next, previous slice (with Shift: ten)"],
  ["Left, Right", "move the cross-hair"],
  ["1, 2, 3, 4", "axial, coronal, sagittal, all three planes"],
  ["B", "blink between clean and adversarial"],
  ["P", "volume or perturbation"],
  ["C", "slice with the largest change"],
  ["L", "show or hide overlays"],
];

const LETTERS = { 1: "axial", 2: "coronal", 3: "sagittal", 4: "multi" };

export function listen(root, actions) {
  const handle = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const acts = action(event, actions);
    if (isPicture(event)) event.stopPropagation();
    if (!acts) return;
    event.preventDefault();
    acts();
  };
  root.addEventListener("keydown", handle, true);
  root.addEventListener("keyup", (event) => isPicture(event) && event.stopPropagation(), true);
}

const isPicture = ({ target }) => target.tagName === "CANVAS";

function action(event, actions) {
  const far = event.shiftKey ? 10 : 1;
  if (isPicture(event)) {
    const steps = { ArrowUp: far, ArrowDown: -far, PageUp: 10, PageDown: -10 };
    if (steps[event.key]) return () => actions.scroll(steps[event.key]);
    if (event.key === "ArrowLeft") return () => actions.across(-far);
    if (event.key === "ArrowRight") return () => actions.across(far);
  }
  if (event.target.matches("select, [type=number]")) return null;
  if (LETTERS[event.key]) return () => actions.plane(LETTERS[event.key]);
  return { b: actions.blink, p: actions.picture, c: actions.jump, l: actions.overlays }[event.key.toLowerCase()];
}
