// The colours of the style sheet, for what is drawn on a canvas, and a call when they change.

const DARK = matchMedia("(prefers-color-scheme: dark)");

export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/** Call `draw` whenever dark becomes light or back. Returns the function that ends this. */
export function onTheme(draw) {
  DARK.addEventListener("change", draw);
  return () => DARK.removeEventListener("change", draw);
}
