// Colours come from the page, so that its light and dark are the viewer's. Constructed, as no policy of the page forbids.

const CSS = `
.fbv { --fbv-line: color-mix(in srgb, currentColor 30%, transparent); container-type: inline-size; font: inherit; }
.fbv * { box-sizing: border-box; }
.fbv-cases { display: flex; flex-wrap: wrap; gap: .5rem 1rem; margin-block: .5rem; }
.fbv-cases .fbv-field { flex: 1 1 12rem; min-width: 0; }
.fbv-body { display: grid; grid-template-columns: minmax(0, 1fr) 20rem; gap: 1rem; align-items: start; }
.fbv-stage { display: grid; grid-auto-flow: column; grid-auto-columns: minmax(0, 1fr); gap: 2px; height: clamp(18rem, 70vh, 46rem);
  border-radius: .25rem; overflow: hidden; }
.fbv-picture { position: relative; min-width: 0; min-height: 0; background: #000; }
.fbv-stage canvas { display: block; width: 100%; height: 100%; outline-offset: -3px; touch-action: pan-y pinch-zoom; }
.fbv canvas:focus-visible { outline: 3px solid #56b4e9; }
.fbv-shown { position: absolute; inset: .4rem auto auto .4rem; padding: .1rem .5rem; border-radius: .2rem; background: #000c; color: #fff;
  font-size: .875rem; pointer-events: none; }
.fbv-field { display: flex; flex-direction: column; gap: .15rem; margin-block: .3rem; }
.fbv-field label, .fbv-note { font-size: .875rem; }
.fbv select, .fbv button, .fbv [type=number] { font: inherit; min-height: 2rem; max-width: 100%; color: inherit; background: transparent;
  border: 1px solid var(--fbv-line); border-radius: .25rem; padding: .15rem .5rem; }
.fbv option { color: CanvasText; background: Canvas; }
.fbv button[aria-pressed=true] { background: #0072b2; border-color: #0072b2; color: #fff; }
.fbv button:disabled, .fbv select:disabled { opacity: .65; }
.fbv :is(select, button, input, summary):focus-visible { outline: 3px solid #56b4e9; outline-offset: 1px; }
.fbv input[type=range] { width: 100%; min-height: 1.5rem; accent-color: #0072b2; }
.fbv-group { border: 1px solid var(--fbv-line); border-radius: .25rem; margin: 0 0 .6rem; padding: .2rem .6rem .4rem; min-width: 0; }
.fbv-group legend { font-weight: 600; padding-inline: .25rem; }
.fbv-row .fbv-field { flex: 1 1 6rem; min-width: 0; }
.fbv-choice, .fbv-row { display: flex; flex-wrap: wrap; gap: .35rem; margin-block: .3rem; align-items: center; }
.fbv-bar { display: flex; flex-wrap: wrap; gap: .25rem 1rem; margin-bottom: .4rem; }
.fbv-problem { border: 2px solid #d55e00; border-radius: .25rem; padding: .5rem .75rem; margin-block: .5rem; overflow-wrap: anywhere; }
.fbv-values { display: grid; grid-template-columns: auto 1fr; gap: .1rem .75rem; margin: .2rem 0; font-variant-numeric: tabular-nums; }
.fbv-values dt { font-size: .875rem; } .fbv-values dd { margin: 0; text-align: right; overflow-wrap: anywhere; }
.fbv-legend { list-style: none; margin: .2rem 0; padding: 0; display: flex; flex-wrap: wrap; gap: .2rem .9rem; }
.fbv-legend li { display: flex; align-items: center; gap: .35rem; overflow-wrap: anywhere; }
.fbv-swatch { width: 1rem; height: 1rem; border-radius: .15rem; border: 1px solid var(--fbv-line); flex: none; }
.fbv-scale { height: .8rem; border: 1px solid var(--fbv-line); border-radius: .15rem; }
.fbv-ends { display: flex; justify-content: space-between; font-size: .875rem; font-variant-numeric: tabular-nums; }
.fbv-note { margin: .2rem 0; overflow-wrap: anywhere; }
.fbv kbd { border: 1px solid var(--fbv-line); border-radius: .2rem; padding: 0 .3rem; font: inherit; font-size: .85em; }
.fbv [hidden] { display: none !important; }
@container (max-width: 46rem) { .fbv-body { grid-template-columns: minmax(0, 1fr); } .fbv-stage { height: clamp(16rem, 55vh, 30rem); } }
@container (max-width: 30rem) { .fbv-cases .fbv-field { flex-basis: 100%; }
  .fbv-stage { grid-auto-flow: row; grid-auto-rows: minmax(0, 1fr); height: clamp(24rem, 80vh, 40rem); } }
`;

export function style() {
  if (document.adoptedStyleSheets.some((sheet) => sheet.isFreqbenchViewer)) return;
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(CSS);
  sheet.isFreqbenchViewer = true;
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
}
