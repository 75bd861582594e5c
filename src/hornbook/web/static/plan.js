// Before anything is spent: what a size costs and what to expect of it.
import { get } from "./api.js";
import { el, failure, field, put, svg, table } from "./dom.js";
import * as form from "./format.js";

export const title = () => "Plan";
const HERE = "this machine"; // as hornbook plan calls what it plans for where no hardware is named
const state = { parameters: 6, tokens: 7, context: 8, count: 0, device: HERE, price: 0 }; // powers of 10, of 2, dollars

export async function show(box, context) {
  const out = el("div", { class: "plan-out", "aria-live": "polite" });
  const sliders = el("div", { class: "plan-in card" });
  put(box, el("div", { class: "heading" }, el("h1", {}, "Plan")), el("p", { class: "muted lede" }, "What a training run would cost and how low its loss would be. Nothing is started."), el("div", { class: "plan" }, sliders, out));
  const slider = (label, key, min, max, step, write) => {
    const output = el("output", {}, write(state[key]));
    const input = el("input", { type: "range", min, max, step, value: state[key], "aria-valuetext": write(state[key]), on: { input: () => { state[key] = Number(input.value); output.textContent = write(state[key]); input.setAttribute("aria-valuetext", output.textContent); soon(); } } });
    return field(label, input, output);
  };
  const device = el("select", { on: { change: () => { state.device = device.value; arrange(); soon(); } } });
  const count = slider("How many", "count", 0, 12, 1, (v) => form.whole(2 ** v));
  const arrange = () => { count.hidden = state.device === HERE; };
  put(sliders, slider("Parameters", "parameters", 4, 11, 0.05, (v) => form.compact(round(10 ** v))), slider("Training tokens", "tokens", 5, 13, 0.05, (v) => form.compact(round(10 ** v))),
    slider("Context in tokens", "context", 5, 15, 1, (v) => form.whole(2 ** v)), field("Hardware", device), count,
    slider("Price of one, an hour", "price", 0, 12, 0.1, (v) => (v ? form.usd(v) : "not given")));
  arrange();
  let [timer, stop] = [null, null];
  const soon = () => { clearTimeout(timer); timer = setTimeout(ask, 150); };
  context.onLeave(() => { clearTimeout(timer); stop?.abort(); });
  async function ask() {
    stop?.abort();
    stop = new AbortController();
    const many = state.device === HERE ? 1 : 2 ** state.count;
    try {
      const answer = await get("plan", { parameters: round(10 ** state.parameters), tokens: round(10 ** state.tokens), context: 2 ** state.context, on: state.device === HERE ? HERE : `${many}x${state.device}`, price: state.price ? `${Number((state.price * many).toFixed(4))}/hour` : null }, stop.signal);
      if (!device.options.length) put(device, answer.devices.map((name) => el("option", { value: name, selected: name === state.device }, name === HERE ? "this machine's processors" : name)));
      put(out, result(answer));
    } catch (error) {
      if (error.name !== "AbortError") put(out, failure(error));
    }
  }
  await ask();
}

const round = (value) => Math.round(Number(value.toPrecision(3)));

function result(answer) {
  const { plan } = answer;
  const range = (name, write) => (plan[`${name}_interval_90`] ? form.interval(plan[`${name}_interval_90`], write, 90) : "");
  const unknown = answer.unknown.filter((one) => plan.price_usd !== null || !one.startsWith("the price is unknown")); // the slider says so
  const hours = (v) => form.compact(v < 10 ? Number(v.toPrecision(2)) : Math.round(v));
  const card = (name, text, below) => el("div", {}, el("dt", {}, name), el("dd", { class: "value" }, text), el("dd", { class: "range" }, below));
  return [
    el("dl", { class: "figures" }, card("Price", form.usd(plan.price_usd), range("price_usd", form.usd)), card("Time", form.seconds(plan.wall_seconds), range("wall_seconds", form.seconds)),
      card("Device hours", plan.gpu_hours === null ? form.DASH : hours(plan.gpu_hours), range("gpu_hours", hours)), card("Energy", plan.energy_kwh === null ? form.DASH : `${form.compact(Math.round(plan.energy_kwh))} kWh`, range("energy_kwh", (v) => form.compact(Math.round(v)))),
      card("Expected loss", form.nats(plan.loss_nats_per_token), range("loss_nats_per_token", form.nats)), card("Memory of a device", form.bytes(plan.memory_bytes?.total), plan.parallel ? `each ${plan.parallel === "replicate" ? "has all weights" : "has a part of the weights"}` : "")),
    frontier(answer),
    [...answer.warnings, ...unknown].length ? el("section", { class: "card" }, el("h2", {}, "To know"), el("ul", { class: "said" }, answer.warnings.map((one) => el("li", {}, el("span", { class: "sign warning", "aria-hidden": "true" }, "!"), one)), unknown.map((one) => el("li", {}, `${one[0].toUpperCase()}${one.slice(1)}`)))) : null,
    el("details", { class: "card" }, el("summary", {}, "The whole plan"), table("The whole plan", ["", ""], (answer.rows ?? []).map((row) => [row.title, row.text]))),
  ];
}

/** Loss over size at one amount of computation: too small, too large, and the best between. */
function frontier(answer) {
  const { plan } = answer;
  const sizes = (answer.sizes ?? []).filter((one) => Number.isFinite(one.loss_nats_per_token)).sort((a, b) => a.parameters - b.parameters);
  if (sizes.length < 3) return el("section", { class: "card" }, el("h2", {}, "Size and loss"), el("p", { class: "muted" }, "No published scaling law reaches sizes this small: they hold from 50M parameters and 1B tokens on. Below, ", el("code", {}, "hornbook sweep"), " trains a ladder of sizes on your text and finds the law of it."));
  const [width, height, left, bottom] = [640, 260, 46, 40];
  const best = sizes.reduce((one, other) => (other.loss_nats_per_token < one.loss_nats_per_token ? other : one));
  const here = { parameters: plan.parameters, loss_nats_per_token: plan.loss_nats_per_token };
  const known = [...sizes, ...(Number.isFinite(here.loss_nats_per_token) ? [here] : [])];
  const [lowX, highX] = [Math.log10(Math.min(...known.map((one) => one.parameters))), Math.log10(Math.max(...known.map((one) => one.parameters)))];
  const losses = known.map((one) => one.loss_nats_per_token);
  const [lowY, highY] = [Math.min(...losses) - 0.14 * (Math.max(...losses) - Math.min(...losses)), Math.max(...losses)];
  const x = (one) => left + (width - left - 16) * ((Math.log10(one.parameters) - lowX) / (highX - lowX || 1));
  const y = (value) => 26 + (height - bottom - 40) * (1 - (value - lowY) / (highY - lowY || 1));
  const ticks = Array.from({ length: Math.floor(highX) - Math.ceil(lowX) + 1 }, (_, index) => 10 ** (Math.ceil(lowX) + index));
  const label = (one, text, kind, above) => svg("text", { x: Math.min(width - 70, Math.max(left + 60, x(one))), y: y(one.loss_nats_per_token) + (above ? -12 : 20), "text-anchor": "middle", class: kind }, text);
  return el("section", { class: "card" }, el("h2", {}, "The same computation at other sizes"), el("p", { class: "small muted" }, `Expected loss if these ${form.power(plan.flops)} FLOPs went into a smaller model with more tokens, or a larger one with fewer.${here.loss_nats_per_token - best.loss_nats_per_token > 0.01 ? " The law counts 6 FLOPs for each parameter and token; the attention of this plan costs more, which is why it may lie above the curve." : ""}`),
    svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "frontier", role: "img", "aria-label": `Best: ${form.compact(best.parameters)} parameters, loss ${form.nats(best.loss_nats_per_token)}. This plan: ${form.compact(here.parameters)}, loss ${form.nats(here.loss_nats_per_token)}.` },
      [0, 0.5, 1].map((share) => { const value = lowY + share * (highY - lowY); return [svg("line", { class: "grid", x1: left, x2: width - 16, y1: y(value), y2: y(value) }), svg("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, form.nats(value))]; }),
      ticks.map((value) => svg("text", { x: x({ parameters: value }), y: height - 22, "text-anchor": "middle" }, form.compact(value))), svg("text", { x: (left + width) / 2, y: height - 4, "text-anchor": "middle" }, "parameters"),
      svg("polyline", { class: "curve", points: sizes.map((one) => `${x(one).toFixed(1)},${y(one.loss_nats_per_token).toFixed(1)}`).join(" ") }),
      svg("circle", { class: "best", cx: x(best), cy: y(best.loss_nats_per_token), r: 6 }), label(best, `best: ${form.compact(best.parameters)}, ${form.nats(best.loss_nats_per_token)}`, "best-text", false),
      Number.isFinite(here.loss_nats_per_token) ? [svg("circle", { class: "here", cx: x(here), cy: y(here.loss_nats_per_token), r: 6 }), label(here, `this plan: ${form.nats(here.loss_nats_per_token)}`, "here-text", true)] : null));
}
