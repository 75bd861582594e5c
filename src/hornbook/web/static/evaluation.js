// The final report: by document, by position, and how honest the probabilities are.
import { el, empty, put, svg, table } from "./dom.js";
import * as form from "./format.js";
import { ABOUT_PROBE, heading, runOf, verdict } from "./head.js";

export const title = (place) => `Evaluation of ${place.id}`;

export async function show(box, context) {
  const run = await runOf(context.id);
  const report = run.evaluation;
  put(box, heading(run, "evaluation"));
  if (!report) {
    box.append(empty("Not evaluated yet", run.is_running ? "The run is evaluated on all of its validation text when it ends." : "The run has not ended, so the validation text was not scored. Finish it, or evaluate any checkpoint:", run.is_running ? null : `hornbook evaluate ${run.shell_path} your-text.txt`));
    return;
  }
  box.append(verdict(run), el("p", { class: "small muted" }, ABOUT_PROBE), byDocument(report, run), el("div", { class: "pair" }, byPosition(report), calibration(report), baselines(run)));
}

const PIECE = /\[\d+:\d+\]$/; // a part of a document that was held out of it
const counted = (number, noun) => `${form.whole(number)} ${noun}${number === 1 ? "" : "s"}`;

function byDocument(report, run) {
  const documents = [...(report.documents ?? [])];
  const body = el("div", {});
  const state = { key: "bits_per_byte", down: true };
  const texts = new Set(documents.map((one) => one.name.replace(PIECE, ""))).size;
  const hasPieces = documents.some((one) => PIECE.test(one.name));
  const columns = [["name", hasPieces ? "Piece (characters)" : "Document"], ["num_tokens", "Tokens"], ["loss_nats_per_token", "Nats per token"], ["bits_per_byte", "Bits per byte"]];
  const mean = report.bits_per_byte ?? run.bits_per_byte;
  function draw() {
    documents.sort((a, b) => (state.down ? -1 : 1) * (state.key === "name" ? a.name.localeCompare(b.name, "en", { numeric: true }) : a[state.key] - b[state.key]));
    const most = Math.max(...documents.map((one) => one.bits_per_byte));
    put(body, el("div", { class: "scroll tall", tabindex: "0", role: "region", "aria-label": "Documents" }, el("table", {}, el("caption", { class: "unseen" }, "Documents"),
      el("thead", {}, el("tr", {}, columns.map(([key, text], index) => el("th", { scope: "col", class: index ? "number" : null, "aria-sort": state.key === key ? (state.down ? "descending" : "ascending") : null },
        el("button", { type: "button", class: "sort", id: `by-${key}`, on: { click: () => { [state.key, state.down] = [key, state.key === key ? !state.down : key !== "name"]; draw(); document.getElementById(`by-${key}`).focus(); } } }, text, el("span", { class: "arrow", "aria-hidden": "true" }, state.key === key ? (state.down ? "↓" : "↑") : "↕"))))) ),
      el("tbody", {}, documents.slice(0, 500).map((one) => el("tr", {}, el("th", { scope: "row" }, one.name), el("td", { class: "number" }, form.whole(one.num_tokens)), el("td", { class: "number" }, form.nats(one.loss_nats_per_token)),
        el("td", { class: "number bars" }, el("span", { class: "bar", style: { "--p": (one.bits_per_byte / most).toFixed(3) } }, form.nats(one.bits_per_byte)))))))),
      documents.length > 500 ? el("p", { class: "small muted" }, `The first 500 of ${form.whole(documents.length)}.`) : null);
  }
  draw();
  return el("section", { class: "card" }, el("h2", {}, hasPieces ? "By piece of the text" : "By document"), el("p", { class: "muted small" }, `${hasPieces ? `${counted(documents.length, "piece")} of ` : ""}${counted(texts, "document")}, ${form.nats(mean)} bits per byte over all. The hardest come first.`), body);
}

/** Rows with a bar each, and a rule at the mean. */
function bars(label, rows, write, most) {
  return el("div", { class: "bars-list", role: "img", "aria-label": `${label}: ${rows.map(([name, value]) => `${name} ${write(value)}`).join(", ")}` },
    rows.map(([name, value, kind]) => el("div", { class: `bar-row ${kind ?? ""}`, "aria-hidden": "true" }, el("span", { class: "bar-name" }, name), el("span", { class: "bar-track" }, el("span", { class: "bar-fill", style: { "--p": Math.max(0, value / most).toFixed(4) } })), el("span", { class: "bar-value" }, write(value)))));
}

function byPosition(report) {
  const rows = (report.by_position ?? []).map((one) => [one.context_tokens[0] === one.context_tokens[1] ? `${one.context_tokens[0]}` : `${one.context_tokens.join(" to ")}`, one.loss_nats_per_token]);
  return el("section", { class: "card" }, el("h2", {}, "By position"), el("p", { class: "muted small" }, "Loss by how many tokens of context the model had; falling means that it uses them."),
    rows.length ? bars("Loss by tokens of context", rows, form.nats, Math.max(...rows.map((row) => row[1]))) : el("p", { class: "muted" }, "Not in this report."));
}

function baselines(run) {
  const rows = (run.baselines ?? []).map((one) => [one.title ?? one.name, one.loss_nats_per_token]);
  if (!rows.length || !Number.isFinite(run.loss_nats_per_token)) return null;
  rows.push(["this model", run.loss_nats_per_token, "own"]);
  return el("section", { class: "card" }, el("h2", {}, "Against n-gram baselines"), el("p", { class: "muted small" }, "Nats per token on the same text; counts of the training text predict it that well."), bars("Loss", rows, form.nats, Math.max(...rows.map((row) => row[1]))));
}

function calibration(report) {
  const known = report.calibration;
  const bins = (known?.calibration_bins ?? []).map((bin) => ({ p: bin.confidence, q: bin.accuracy, n: bin.share }));
  if (!bins.length) return null;
  const section = el("section", { class: "card" }, el("h2", {}, "Calibration"), el("p", { class: "muted small" }, "When the model says 70 %, is it right 7 times in 10? Points on the line are honest."));
  const size = 260;
  const place = (value) => 30 + (size - 40) * value;
  const y = (value) => size - 30 - (size - 40) * value;
  section.append(svg("svg", { viewBox: `0 0 ${size} ${size}`, class: "calibration", role: "img", "aria-label": `Calibration: ${bins.map((bin) => `said ${form.percent(bin.p)}, right ${form.percent(bin.q)}`).join("; ")}` },
    [0, 0.5, 1].map((at) => [svg("line", { x1: place(0), x2: place(1), y1: y(at), y2: y(at), class: "grid" }), svg("text", { x: 24, y: y(at) + 4, "text-anchor": "end" }, form.percent(at)), svg("text", { x: place(at), y: size - 10, "text-anchor": "middle" }, form.percent(at))]),
    svg("line", { x1: place(0), y1: y(0), x2: place(1), y2: y(1), class: "ideal" }),
    bins.map((bin) => svg("circle", { cx: place(bin.p), cy: y(bin.q), r: 3 + 8 * Math.sqrt(bin.n) }))));
  return section;
}
export { bars };
