// Elements are made here and nowhere else. Whatever comes from a run becomes text, never markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element: `class`, `dataset`, `style` (by CSSOM, which the content security policy allows), `on` and attributes. */
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [event, run] of Object.entries(value)) node.addEventListener(event, run);
    else if (name === "style") for (const [key, css] of Object.entries(value)) node.style.setProperty(key, css);
    else if (name === "dataset") Object.assign(node.dataset, value);
    else if (name === "value" || name === "checked" || name === "selected") node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** Make `children` what is in `node`, and touch nothing that stays: what is laid out is not laid out again. */
export function arrange(node, children) {
  const staying = new Set(children);
  for (const old of [...node.children]) if (!staying.has(old)) old.remove();
  children.forEach((child, index) => { if (node.children[index] !== child) node.insertBefore(child, node.children[index] ?? null); });
  return node;
}

/** Replace what is in `node`, and nothing where it is the same text. */
export function put(node, ...children) {
  node.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** A tag of two or three words with a sign of its own, so that colour is not all that tells one from another. */
export const SIGNS = { good: "✓", bad: "✕", warning: "!", live: "●", neutral: "–" };
export function tag(kind, text) {
  return el("span", { class: `tag tag-${kind}` }, el("span", { "aria-hidden": "true", class: "sign" }, SIGNS[kind] ?? "–"), text);
}

/** What a view shows where there is nothing to show: what it would be, and how to get it. */
export function empty(title, sentence, command) {
  return el("div", { class: "empty" }, el("p", { class: "empty-title" }, title), el("p", {}, sentence),
    command ? el("p", {}, el("code", {}, command)) : null);
}

export function failure(error) {
  return el("p", { class: "failure", role: "alert" }, el("span", { "aria-hidden": "true", class: "sign" }, "✕ "), error.message);
}

/** A table with a heading for each column, told to a screen reader by its caption. */
export function table(caption, headings, rows, options = {}) {
  const head = el("tr", {}, headings.map((heading) => el("th", { scope: "col", class: heading.class }, heading.text ?? heading)));
  const body = rows.map((cells) => el("tr", {}, cells.map((cell, column) =>
    column === 0 && options.named !== false
      ? el("th", { scope: "row" }, cell)
      : el("td", { class: headings[column]?.class }, cell))));
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    el("table", { class: options.class }, el("caption", { class: "unseen" }, caption), el("thead", {}, head), el("tbody", {}, body)));
}

let names = 0;
/** A labelled control: the label belongs to the control by its id. */
export function field(label, control, output = null) {
  control.id ||= `field-${++names}`;
  return el("div", { class: "field" }, el("label", { for: control.id }, label), control, output);
}
