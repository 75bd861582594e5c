// Type a text: how surprised a model is by each token, and the softmax behind it; any checkpoint, two models side by side.
import { get } from "./api.js";
import { checkpointSlider } from "./checkpoints.js";
import { el, empty, failure, field, put, table } from "./dom.js";
import * as form from "./format.js";
import { runOf } from "./head.js";

export const title = () => "Inspect";
const EXAMPLE = "The cat sat on the mat, and the king said that he would not go.";
const MOST_CHARACTERS = 4000;
const kept = { text: EXAMPLE };

export async function show(box, context) {
  const { runs } = await get("runs");
  const able = runs.filter((run) => run.state !== "damaged");
  put(box, el("div", { class: "heading" }, el("h1", {}, "Inspect")), el("p", { class: "muted lede" }, "A model gives every possible next token a probability. The stronger a token is marked, the more it surprised the model."));
  if (!able.length) {
    box.append(empty("No model yet", "A model can be asked as soon as a run has saved a checkpoint.", "hornbook train your-text.txt"));
    return;
  }
  const names = able.map((run) => run.id).reverse();
  const isSound = (run) => run.state === "finished" && run.verdict?.tag !== "bad";
  const sound = [...able.filter(isSound).map((run) => run.id).reverse(), ...names];
  const first = names.includes(context.query.get("run")) ? context.query.get("run") : sound[0];
  const text = el("textarea", { rows: 3, maxlength: MOST_CHARACTERS, spellcheck: "false", value: kept.text, on: { input: () => { kept.text = text.value; cut.hidden = text.value.length < MOST_CHARACTERS; soon(); } } });
  const cut = el("p", { class: "small muted", role: "status", hidden: kept.text.length < MOST_CHARACTERS }, `The text is cut at ${form.whole(MOST_CHARACTERS)} characters, the most that is read at once here.`);
  const sides = el("div", { class: "sides" });
  const beside = el("button", { type: "button", on: { click: async () => {
    if (panels.length === 1) panels.push(await panel(sound.find((name) => name !== panels[0].run.id) ?? sound[0], null, names, context, text, keep));
    else panels.pop();
    arrange();
  } } });
  const keep = () => { // in the address, which then opens the same again
    if (!context.isCurrent()) return;
    const [one, other] = panels;
    const parts = { run: one.run.id, step: one.step, with: other?.run.id, with_step: other?.step };
    const query = new URLSearchParams(Object.entries(parts).filter(([, value]) => value !== null && value !== undefined));
    history.replaceState(null, "", `#/inspect?${query}`);
  };
  const panels = [await panel(first, context.query.get("step"), names, context, text, keep)];
  const second = context.query.get("with");
  if (second && names.includes(second)) panels.push(await panel(second, context.query.get("with_step"), names, context, text, keep));
  const arrange = () => {
    beside.textContent = panels.length === 1 ? "Put a second model beside it" : "Only one model";
    sides.classList.toggle("two", panels.length > 1);
    put(sides, panels.map((one) => one.node));
    keep();
    for (const one of panels) one.read();
  };
  let timer = null;
  const soon = () => { clearTimeout(timer); timer = setTimeout(() => panels.forEach((one) => one.read()), 450); };
  context.onLeave(() => { clearTimeout(timer); for (const one of panels) one.stop(); });
  put(box, [...box.children], el("div", { class: "ask" }, field("Text", text), beside), cut, sides);
  arrange();
}

async function panel(id, step, names, context, text, keep) {
  const state = { run: await runOf(id), stop: null };
  const checkpoint = checkpointSlider(() => { keep(); soon(); });
  const choose = el("select", { on: { change: async () => { state.run = await runOf(choose.value); checkpoint.of(state.run); keep(); read(); } } }, names.map((name) => el("option", { value: name, selected: name === id }, name)));
  const result = el("div", { class: "result" });
  const node = el("section", { class: "card panel" }, el("div", { class: "controls" }, field("Model", choose), checkpoint.node), result);
  let timer = null;
  const soon = () => { clearTimeout(timer); timer = setTimeout(read, 200); };
  async function read() {
    state.stop?.abort();
    if (checkpoint.step === null) return put(result, empty("No checkpoint yet", "This run has not saved any weights."));
    if (!text.value.trim()) return put(result, empty("No text", "Type a few words above."));
    state.stop = new AbortController();
    if (!result.childElementCount) put(result, el("p", { class: "muted" }, "Opening the model …"));
    result.setAttribute("aria-busy", "true");
    try {
      const answer = await get("inspect", { run: state.run.id, step: checkpoint.step, text: text.value, top_k: 5 }, state.stop.signal);
      if (context.isCurrent()) put(result, heatmap(answer, { run: state.run, step: checkpoint.step }));
    } catch (error) {
      if (error.name !== "AbortError") put(result, failure(error));
      else return null;
    }
    result.removeAttribute("aria-busy");
    return null;
  }
  checkpoint.of(state.run, step === null ? null : Number(step));
  return { node, read, get run() { return state.run; }, get step() { return checkpoint.step; }, stop: () => { clearTimeout(timer); state.stop?.abort(); } };
}

const MOST_NATS = 8;
let chosenToken = null; // both panels show the softmax of the same token

function heatmap(answer, state) {
  const detail = el("div", { class: "softmax" });
  const scored = answer.tokens.filter((token) => token.nats !== null && token.nats !== undefined);
  const mean = scored.reduce((sum, token) => sum + token.nats, 0) / (scored.length || 1);
  const spans = answer.tokens.map((token, index) => {
    const isScored = token.nats !== null && token.nats !== undefined;
    const strength = isScored ? Math.min(1, token.nats / MOST_NATS) : 0;
    const span = el("span", { class: `token${isScored ? "" : " unscored"}`, role: "option", id: `t${state.run.id.replace(/\W/g, "_")}-${index}-${state.step}`, "aria-selected": "false",
      "aria-label": `${form.visible(token.text)}${isScored ? `, ${form.nats(token.nats)} nats, p ${form.probability(token.probability)}` : ", not scored"}`,
      style: { "--n": strength.toFixed(3) }, on: { mouseenter: () => peek(index), click: () => choose(index) } }, token.text.replace(/\n/g, "⏎\n"));
    return span;
  });
  const list = el("div", { class: "tokens", role: "listbox", tabindex: "0", "aria-label": "Tokens: arrow keys choose one" }, spans);
  let at = -1;
  const peek = (index) => { if (document.activeElement !== list) choose(index); };
  function choose(index) {
    at = Math.min(spans.length - 1, Math.max(0, index));
    chosenToken = at;
    spans.forEach((span, place) => span.setAttribute("aria-selected", String(place === at)));
    list.setAttribute("aria-activedescendant", spans[at].id);
    put(detail, softmax(answer.tokens[at], answer.vocabulary));
  }
  list.addEventListener("keydown", (event) => {
    const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 8, ArrowUp: -8, Home: -1e6, End: 1e6 };
    if (!(event.key in moves)) return;
    event.preventDefault();
    choose(at + moves[event.key]);
  });
  const most = answer.tokens.reduce((best, token, index) => ((token.nats ?? -1) > (answer.tokens[best].nats ?? -1) ? index : best), 0);
  if (answer.tokens.length) choose(chosenToken !== null && chosenToken < spans.length ? chosenToken : most);
  return [
    el("p", { class: "totals" }, el("strong", {}, form.nats(mean)), " nats per token · perplexity ", el("strong", {}, form.perplexity(mean)), answer.bits_per_byte ? [" · ", el("strong", {}, form.nats(answer.bits_per_byte)), " bits per byte"] : null, el("span", { class: "muted" }, ` · ${answer.tokens.length} tokens`)),
    list,
    el("p", { class: "scale small muted", "aria-hidden": "true" }, "expected", el("i", {}), `${MOST_NATS} nats and more`),
    detail,
  ];
}

/** One row of the softmax: the most probable tokens, the one that came, all others; they sum to 1. */
function softmax(token, vocabulary) {
  if (token.nats === null || token.nats === undefined) return el("p", { class: "muted" }, `“${form.visible(token.text)}” is the first: nothing comes before it from which to predict it.`);
  const logSum = token.logit - token.log_probability;
  const listed = [...token.alternatives];
  if (!listed.some((other) => other.id === token.id)) listed.push(token);
  const size = (value) => (!Number.isFinite(value) ? "too large" : value !== 0 && value < 0.01 ? form.power(value) : form.compact(Number(value.toPrecision(3))));
  const rest = Math.max(0, 1 - listed.reduce((sum, other) => sum + other.probability, 0));
  const bar = (p) => el("span", { class: "bar", style: { "--p": p.toFixed(4) } }, form.probability(p));
  const rows = listed.map((other) => {
    const logit = other.id === token.id ? token.logit : Math.log(other.probability) + logSum;
    return [el("span", { class: other.id === token.id ? "came" : null }, el("code", { class: "piece" }, form.visible(other.text)), other.id === token.id ? el("span", { class: "small" }, " ← came") : null), form.nats(logit), size(Math.exp(logit)), bar(other.probability)];
  });
  rows.push([el("span", { class: "muted" }, `${form.whole(vocabulary - listed.length)} others`), "", size(rest * Math.exp(logSum)), bar(rest)]);
  rows.push([el("strong", {}, "sum"), "", size(Math.exp(logSum)), el("strong", {}, "1")]);
  return [
    el("p", { class: "softmax-head" }, el("code", { class: "piece" }, form.visible(token.text)), ` surprised by ${form.nats(token.nats)} nats: −ln ${form.probability(token.probability)}`, el("span", { class: "muted" }, ` · rank ${form.whole(token.rank)} of ${form.whole(vocabulary)} · the model expected ${form.nats(token.entropy_nats)}`)),
    table("Softmax of this token", ["token", { text: "logit", class: "number" }, { text: "e^logit", class: "number" }, { text: "p", class: "number bars" }], rows, { class: "softmax-table" }),
  ];
}
