// One run: what is to be said of it, its curves against any axis, and what happened when. New rows arrive by themselves.
import { WITHIN, get, listen, runPath } from "./api.js";
import { connection } from "./app.js";
import { chart, joined } from "./chart.js";
import { el, empty, field, put, table, tag } from "./dom.js";
import * as form from "./format.js";
import { ABOUT_PROBE, heading, runOf, verdict } from "./head.js";

export const title = (place) => place.id;

const AXES = {
  step: ["Steps", form.compact], tokens: ["Tokens", form.compact], epoch: ["Epochs", (v) => String(Number(v.toPrecision(3)))],
  seconds: ["Time", form.seconds], flops: ["FLOPs", form.power], price_usd: ["Money", form.usd],
};
const TRAIN = "train_loss_nats_per_token";
const PROBE = "probe_validation_loss_nats_per_token";
const PROBE_TRAIN = "probe_train_loss_nats_per_token";
const SMALL = [
  { column: "learning_rate", label: "Learning rate", colour: "series-4", form: (v) => (v === 0 ? "0" : v < 0.001 ? form.power(v) : String(Number(v.toPrecision(3)))) },
  { column: "gradient_norm", label: "Gradient norm", colour: "series-5", form: (v) => form.compact(Number(v.toPrecision(3))), canLog: true },
  { column: "tokens_per_second", label: "Tokens per second", colour: "series-3", form: form.compact, zero: true },
  { column: "mfu", label: "Model FLOPs utilisation", colour: "series-6", form: (v) => form.percent(v, v < 0.1 ? 1 : 0), zero: true },
];
const LOUD = ["decision", "warning", "resume", "end"];
const look = { x: "step", logX: false, logY: null, smoothing: 0.6, hidden: new Set() }; // logY null: where the loss spans much

export async function show(box, context) {
  let run = await runOf(context.id);
  if (look.x === "price_usd" && !(run.price_usd > 0)) look.x = "step";
  const view = { zoom: [null, null], series: null, charts: [], turn: 0 };
  const parts = Object.fromEntries(["head", "verdict", "numbers", "said", "reading", "chart", "small", "events", "facts"].map((name) => [name, el("div", { class: `part-${name}` })]));
  parts.reading.setAttribute("role", "status");
  const controls = chartControls(() => ask(), () => draw(true));
  put(box, parts.head, parts.verdict, el("div", { class: "columns" }, parts.numbers, parts.said),
    el("section", { class: "card", "aria-label": "Loss" }, el("div", { class: "card-head" }, el("h2", {}, "Loss"), controls.node), parts.reading, parts.chart,
      el("details", { class: "numbers" }, el("summary", {}, "The evaluations as a table"), el("div", {}))),
    parts.small, parts.events, parts.facts);
  const tableBox = box.querySelector("details.numbers");
  tableBox.addEventListener("toggle", () => tableBox.open && evaluationsTable(tableBox.lastElementChild, view.series));

  const drawFacts = () => {
    controls.money.disabled = !(run.price_usd > 0);
    put(parts.head, heading(run, ""));
    put(parts.verdict, verdict(run));
    put(parts.numbers, numbers(run));
    put(parts.said, conclusions(run));
    put(parts.events, events(run));
    const open = parts.facts.querySelector("details[open]") !== null;
    put(parts.facts, facts(run, open));
  };

  async function ask() {
    const [from, to] = view.zoom;
    const points = Math.min(1600, Math.max(300, Math.round((box.clientWidth || 1000) * 1.2)));
    const turn = ++view.turn;
    let isNew = true;
    do {
      const answer = await get(runPath(run.id, "/series"), { x: look.x, from, to, points, within: WITHIN });
      if (!context.isCurrent() || turn !== view.turn) return;
      view.series = answer;
      view.mustAsk = false;
      draw(isNew);
      isNew = false;
      put(parts.reading, answer.share_read < 1 ? `Reading the log: ${form.percent(answer.share_read)} so far …` : null);
      if (answer.share_read < 1) context.reveal();
    } while (view.series.share_read < 1);
    if (run.share_read < 1) {
      run = await runOf(run.id);
      if (context.isCurrent()) drawFacts();
    }
  }

  const zoom = (from, to) => {
    view.zoom = [from, to];
    controls.reset.hidden = from === null;
    ask().catch(() => {});
  };
  controls.reset.addEventListener("click", () => zoom(null, null));

  function draw(isNew) {
    if (!view.series) return;
    if (!view.series.x.length && !view.series.evaluations.x.length) {
      put(parts.chart, empty("No step yet", "The curve begins with the first step."));
      return;
    }
    const big = lossChart(run, view, zoom);
    controls.node.querySelector("#chart-logY").checked = big[0].y.log;
    const small = SMALL.map((one) => smallChart(one, run, view, zoom)).filter(Boolean);
    if (!isNew && view.charts.length === small.length + 1) {
      [big, ...small].forEach(([spec, data], index) => view.charts[index].set(spec, data));
      return;
    }
    for (const one of view.charts) one.destroy();
    const boxes = small.map(([spec]) => el("section", { class: "card small-chart", "aria-label": spec.label }, el("h2", { class: "unseen" }, spec.label), el("div", {})));
    put(parts.small, boxes);
    view.charts = [chart(parts.chart, ...big), ...small.map(([spec, data], index) => chart(boxes[index].lastElementChild, spec, data))];
    if (tableBox.open) evaluationsTable(tableBox.lastElementChild, view.series);
  }

  drawFacts();
  const ready = ask();
  context.onLeave(() => { for (const one of view.charts) one.destroy(); });
  await ready;

  let waiting = null;
  const soon = () => { waiting ??= setTimeout(() => { waiting = null; if (context.isCurrent()) draw(false); }, 250); };
  context.onLeave(() => clearTimeout(waiting));
  const reload = async () => { run = await runOf(run.id); if (context.isCurrent()) { drawFacts(); await ask(); } };
  context.onLeave(listen(runPath(run.id, `/events?offset=${view.series.offset}`), {
    rows: ({ rows }) => {
      const isWhole = view.zoom[0] === null;
      for (const row of rows) append(run, view, row, isWhole);
      if (rows.some((row) => row.event !== "step")) runOf(run.id).then((next) => { run = next; if (context.isCurrent()) { drawFacts(); soon(); } }).catch(() => {});
      if (view.mustAsk || view.series.x.length > 4000) ask().catch(() => {});
      else if (isWhole) soon();
    },
    reload: () => reload().catch(() => {}),
    state: () => reload().catch(() => {}),
  }, connection));
}

/** A row of the log at the end of the columns; a resume takes back what came after its step. */
function append(run, view, row, isWhole) {
  const { series } = view;
  if (row.event === "resume" || isNewColumn(series, row)) view.mustAsk = true;
  if (!isWhole || (row.event !== "step" && row.event !== "evaluation")) return;
  const at = look.x === "price_usd" ? row.cost?.price_usd ?? series.x.at(-1) : row[look.x];
  if (at === null || at === undefined) return;
  const into = row.event === "step" ? series : series.evaluations;
  if (into.x.length && at <= into.x.at(-1)) return;
  into.x.push(at);
  for (const [name, values] of Object.entries(into.columns)) {
    const pair = row[name.replace(/_(low|high)$/, "_interval_90")];
    const value = name.endsWith("_low") ? pair?.[0] ?? null : name.endsWith("_high") ? pair?.[1] ?? null : row[name] ?? null;
    if (row.event === "step" && series.is_reduced) { values[0].push(value); values[1].push(value); } else values.push(value);
  }
  if (row.event === "step") run.step = row.step;
}

/** Whether a row has a number that no row had when the columns were asked for. */
function isNewColumn({ columns, evaluations }, row) {
  if (row.event === "step") return !columns[TRAIN];
  return row.event === "evaluation" && [PROBE, PROBE_TRAIN].some((name) => row[name] !== null && row[name] !== undefined && !evaluations.columns[name]);
}

function chartControls(onAsk, onDraw) {
  const axis = el("select", { on: { change: () => { look.x = axis.value; onAsk().catch(() => {}); } } }, Object.entries(AXES).map(([value, [text]]) => el("option", { value, selected: value === look.x }, text)));
  const toggle = (key, text) => {
    const input = el("input", { type: "checkbox", id: `chart-${key}`, checked: Boolean(look[key]), on: { change: () => { look[key] = input.checked; onDraw(); } } });
    return el("label", { class: "check" }, input, text);
  };
  const smoothing = el("input", { type: "range", min: 0, max: 0.98, step: 0.02, value: look.smoothing, on: { input: () => { look.smoothing = Number(smoothing.value); onDraw(); } } });
  const reset = el("button", { type: "button", hidden: true }, "Show all");
  return { reset, money: axis.querySelector("[value=price_usd]"), node: el("div", { class: "controls" }, reset, field("Against", axis), toggle("logX", "log x"), toggle("logY", "log y"), field("Smoothing", smoothing)) };
}

/** Lowest and highest of each point, and their middle. */
function column(series, name) {
  const values = series.columns[name];
  if (!values) return null;
  if (!series.is_reduced) return { low: values, high: values, middle: values };
  const [low, high] = values;
  return { low, high, middle: low.map((value, index) => (value === null || high[index] === null ? value ?? high[index] : (value + high[index]) / 2)) };
}

/** Exponentially smoothed, and unbiased at the beginning; a gap stays a gap. */
export function smoothed(values, weight) {
  let [sum, mass] = [0, 0];
  return values.map((value) => {
    if (value === null || value === undefined) return value;
    sum = weight * sum + (1 - weight) * value;
    mass = weight * mass + (1 - weight);
    return sum / mass;
  });
}

/** Minima and maxima in turn, so that every spike is drawn. */
function raw(x, { low, high }) {
  if (low === high) return [x, low];
  const [xs, ys] = [[], []];
  x.forEach((at, index) => {
    const step = (x[index + 1] ?? at) - at;
    xs.push(at, at + step / 2 || at);
    ys.push(low[index], high[index]);
  });
  return distinct(xs, ys);
}

function distinct(xs, ys) {
  const kept = xs.map((x, index) => index === 0 || x > xs[index - 1]);
  return [xs.filter((_, index) => kept[index]), ys.filter((_, index) => kept[index])];
}

function lossChart(run, view, zoom) {
  const { series } = view;
  const isLogX = look.logX;
  const positive = (rows) => (isLogX ? rows.map((values) => values.filter((_, index) => rows[0][index] > 0)) : rows);
  const train = column(series, TRAIN);
  const looks = series.evaluations;
  const weight = look.smoothing === 0 ? 0 : look.smoothing ** (series.is_reduced ? 0.7 : 1);
  const tables = [];
  const lines = [];
  if (train) {
    tables.push(positive(raw(series.x, train)), positive([series.x, smoothed(train.middle, weight)]));
    lines.push({ name: "raw", label: "training, each batch", colour: "training", width: 1, faint: true, spanGaps: false },
      { name: "train", label: "training, smoothed", colour: "training", width: 2.2 });
  }
  const points = looksOf(looks, PROBE);
  const pointsTrain = looksOf(looks, PROBE_TRAIN);
  if (pointsTrain[0].length) { tables.push(positive(pointsTrain)); lines.push({ name: "probe-train", label: "training sample (probe)", colour: "training", width: 1, dash: [2, 4], points: true, hollow: true, size: 6 }); }
  if (points[0].length) { tables.push(positive(points)); lines.push({ name: "probe", label: "validation sample (probe)", colour: "validation", width: 1.6, points: true, size: 7 }); }
  const data = joined(tables);
  const xs = data[0];
  const isWhole = view.zoom[0] === null;
  const forecast = isWhole ? forecastCone(run, looks, points) : null;
  const last = (rows) => rows[1].findLast((value) => value !== null && value !== undefined);
  const labels = [];
  if (points[0].length) labels.push({ label: "validation", value: last(points), colour: "validation-text", isLabel: true });
  if (train && series.share_read === 1) labels.push({ label: "training", value: last(tables[1]), colour: "training-text", isLabel: true });
  if (forecast) labels.push({ label: "forecast", value: forecast.middle, colour: "forecast-text", isLabel: true });
  const isLogY = look.logY ?? isSteep(data);
  const baselines = (run.baselines ?? []).filter((one) => one.loss_nats_per_token).map((one) => ({ label: one.title ?? one.name, value: one.loss_nats_per_token, colour: "muted", holds: isLogY }));
  if (run.uniform_loss_nats_per_token && !baselines.some((line) => /uniform/.test(line.label))) baselines.push({ label: "guessing", value: run.uniform_loss_nats_per_token, colour: "muted" });
  const gap = run.gap_opens?.[{ step: "steps", tokens: "tokens" }[look.x]] ?? (run.gap_opens && look.x === "epoch" && run.tokens_per_epoch ? run.gap_opens.tokens.map((tokens) => tokens / run.tokens_per_epoch) : null);
  const [name, write] = AXES[look.x];
  return [{
    label: `Loss in nats per token against ${name.toLowerCase()}`, height: innerWidth < 700 ? 300 : 400, series: lines, sync: `run-${run.id}`, onZoom: zoom, hidden: look.hidden,
    x: { form: write, log: isLogX, min: view.zoom[0] ?? (isLogX ? null : xs[0] ?? null), max: view.zoom[1] ?? (forecast && !isLogX ? forecast.cone.x[1] : null) },
    y: { form: (v) => form.nats(v), log: isLogY, title: "nats per token" }, lines: [...labels, ...baselines],
    keys: [gap ? { label: "the gap opens in here", colour: "gap-fill" } : null, forecast ? { label: "forecast, 90 %", colour: "forecast-fill" } : null].filter(Boolean),
    second: isSteep(data) ? undefined : { title: "perplexity", form: (v) => (Number.isInteger(Math.round(Math.exp(v) * 1e6) / 1e6) || Math.exp(v) > 1 ? form.compact(Number(Math.exp(v).toPrecision(3))) : ""), splits: perplexities },
    marks: marksOf(run, series), bands: gap ? [{ x: gap, colour: "gap-fill" }] : [], cones: forecast ? [forecast.cone] : [],
  }, data];
}

/** Whether a loss spans so much that only a logarithm shows all of it. */
export function isSteep(data) {
  const known = data.slice(1).flat().filter((value) => value > 0);
  return known.length > 0 && known.reduce((a, b) => Math.max(a, b)) > 25 * known.reduce((a, b) => Math.min(a, b)) && known.reduce((a, b) => Math.max(a, b)) > 30;
}

/** Points with a line between those that follow each other closely: nothing was measured between the first look, before
 * the training, and a much later one. */
function looksOf(looks, name) {
  const values = looks.columns[name] ?? [];
  const [xs, ys] = [[], []];
  const span = (looks.x.at(-1) ?? 0) - (looks.x[0] ?? 0);
  looks.x.forEach((x, index) => {
    if (values[index] === null || values[index] === undefined || x === xs.at(-1)) return;
    if (xs.length === 1 && x - xs[0] > 0.03 * span) { xs.push(xs[0] + (x - xs[0]) / 2); ys.push(null); }
    xs.push(x);
    ys.push(values[index]);
  });
  return [xs, ys];
}

/** From the last look to where the run will end, 90 %. */
function forecastCone(run, looks, points) {
  const known = run.forecast;
  if (!known?.loss_nats_per_token || !run.is_running || !points[0].length) return null;
  const end = { step: known.at_step, tokens: known.at_tokens, epoch: run.tokens_per_epoch ? known.at_tokens / run.tokens_per_epoch : null }[look.x];
  const between = known.loss_nats_per_token_interval_90;
  if (!end || !between || end <= points[0].at(-1)) return null;
  return { middle: known.loss_nats_per_token, cone: { x: [points[0].at(-1), end], y: [points[1].at(-1), ...between] } };
}

/** Perplexities worth a mark between two losses. */
function perplexities(_, __, low, high) {
  const most = 8;
  const all = [];
  for (let power = -1; power < 14; power++) for (const digit of [1, 1.5, 2, 3, 5, 7]) all.push(digit * 10 ** power);
  const inside = all.filter((value) => Math.log(value) >= low && Math.log(value) <= high);
  const round = inside.filter((value) => /^[125]/.test(value.toExponential()) && !/^1\.5/.test(value.toExponential()));
  const chosen = round.length >= 3 ? round : inside;
  const stride = Math.ceil(chosen.length / most);
  return chosen.filter((_, index) => index % stride === 0).map(Math.log);
}

function marksOf(run, series) {
  const key = { step: "step", tokens: "tokens", epoch: "epoch" }[look.x];
  if (!key) return [];
  const warnings = run.events.filter((event) => event.event === "warning").length;
  return run.events.filter((event) => LOUD.includes(event.event) || event.event === "checkpoint").map((event) => ({
    x: key === "epoch" ? (event.tokens ?? 0) / (run.tokens_per_epoch || 1) : event[key], kind: event.event, quiet: event.event === "warning" && warnings > 12,
  })).filter((mark) => mark.x !== null && mark.x !== undefined);
}

function smallChart(one, run, view, zoom) {
  const values = column(view.series, one.column);
  if (!values || !values.middle.some((value) => value !== null)) return null;
  const rows = raw(view.series.x, values).map((list) => list);
  const muon = one.column === "learning_rate" ? column(view.series, "muon_learning_rate") : null;
  const tables = [rows];
  const lines = [{ name: one.column, label: muon ? "AdamW" : one.label, colour: one.colour, width: 1.5 }];
  if (muon && muon.middle.some((value) => value !== null)) { tables.push([view.series.x, muon.middle]); lines.push({ name: "muon", label: "Muon", colour: "series-5", width: 1.5 }); }
  const data = joined(tables);
  const isWild = one.canLog && spreadOf(values.high) > 100 && !values.low.some((value) => value !== null && value <= 0);
  return [{
    label: one.label, height: 150, small: true, gutter: false, series: lines, sync: `run-${run.id}`, onZoom: zoom,
    x: { form: AXES[look.x][1], log: look.logX, min: view.zoom[0] ?? null, max: view.zoom[1] ?? null },
    y: { form: one.form, log: isWild, min: one.zero ? 0 : null },
  }, look.logX ? data.map((values) => values.filter((_, index) => data[0][index] > 0)) : data];
}

function spreadOf(values) {
  const known = values.filter((value) => value > 0);
  return known.length ? Math.max(...known) / Math.min(...known) : 1;
}

function numbers(run) {
  const listed = run.numbers?.length ? run.numbers : [
    { name: PROBE, title: "Loss on the validation sample (probe)", text: form.nats(run[PROBE]), unit: "nats/token" },
    { name: TRAIN, title: "Training loss, last step", text: form.nats(run[TRAIN]), unit: "nats/token" }];
  const firstOnes = ["validation_loss_nats_per_token", "loss_nats_per_token", "perplexity", "bits_per_byte", "top1_accuracy"];
  const chosen = listed.filter((number, index) => firstOnes.includes(number.name) || (listed.length < 5 && index < 4)).slice(0, 4);
  const card = (name, text, unit, below, why) => el("div", {}, el("dt", { title: why ?? null }, name), el("dd", { class: "value" }, text, unit ? el("span", { class: "unit" }, ` ${unit}`) : null), below ? el("dd", { class: "range" }, below) : null);
  const step = run.planned_steps && run.planned_steps !== run.step ? `${form.whole(run.step)} of ${form.whole(run.planned_steps)} steps` : `${form.whole(run.step)} steps`;
  const time = (run.plan ?? []).find((entry) => entry.name === "wall_seconds");
  return el("dl", { class: "figures" },
    chosen.map((number) => card(number.title, number.text, number.unit === "nats/token" ? "nats per token" : number.name === "perplexity" ? "tokens" : "", number.interval_text, number.sentence)),
    card("Cost", run.price_usd === null || run.price_usd === undefined ? form.time(run) : form.price(run), run.price_usd === null || run.price_usd === undefined ? "" : form.time(run),
      time?.predicted_text && time.actual_text ? `planned ${time.predicted_text}${time.inside === false ? ", outside its range" : ""}` : ""),
    card("Training", step, "", `${form.compact(run.tokens)} tokens, ${form.nats(run.epoch, 1)} epochs${run.best_step !== null && run.best_step !== undefined ? `; lowest at step ${form.whole(run.best_step)}` : ""}`));
}

function conclusions(run) {
  const lines = (run.conclusions ?? []).filter((one) => one.sentence !== run.verdict?.sentence);
  return el("section", { "aria-label": "What the curves say" }, el("h2", {}, "What the curves say"),
    lines.length ? el("ul", { class: "said" }, lines.map((one) => el("li", { class: `said-${one.tag}` }, one.tag === "bad" || one.tag === "warning" || one.tag === "good" ? el("span", { class: `sign ${one.tag}`, "aria-hidden": "true" }, { bad: "✕", warning: "!", good: "✓" }[one.tag]) : null, one.sentence))) : el("p", { class: "muted" }, "Nothing yet: evaluations come at steps 1, 2, 4, 8 and so on."),
    el("p", { class: "small muted" }, ABOUT_PROBE),
    run.interval_about ? el("p", { class: "small muted" }, `Intervals: ${run.interval_about}.`) : null);
}

function events(run) {
  const names = { decision: "decision", warning: "warning", resume: "resumed", checkpoint: "checkpoint", end: "end", sample: "sample" };
  const shown = run.events.filter((event) => LOUD.includes(event.event));
  const quiet = run.events.filter((event) => event.event === "checkpoint").length;
  const cap = 40;
  return el("section", { class: "card", "aria-label": "What happened" }, el("h2", {}, "What happened"),
    shown.length ? el("ol", { class: "events" }, shown.slice(-cap).map((event) => el("li", {}, el("span", { class: "when" }, `step ${form.whole(event.step)}`),
      tag({ warning: "warning", decision: "neutral", end: "neutral", resume: "neutral" }[event.event] === "warning" || event.tag === "bad" ? (event.tag === "bad" ? "bad" : "warning") : "neutral", names[event.event]), el("span", {}, event.text)))) : el("p", { class: "muted" }, "No decision, no warning so far."),
    shown.length > cap ? el("p", { class: "small muted" }, `The last ${cap} of ${shown.length}.`) : null,
    quiet ? el("p", { class: "small muted" }, `${quiet} checkpoints were saved.`) : null);
}

function facts(run, isOpen) {
  const rows = [...(run.header ?? []).map((one) => [one.title, one.text])];
  const plan = (run.plan ?? []).map((one) => [one.title ?? one.name, one.predicted_text ?? form.DASH, one.actual_text || form.DASH, one.inside === null ? form.DASH : one.inside ? "yes" : "no"]);
  return [
    plan.length ? el("section", { class: "card" }, el("h2", {}, "Plan against actual"), table("Plan against actual", ["", { text: "planned", class: "number" }, { text: "actual", class: "number" }, "inside its range"], plan)) : null,
    el("section", { class: "card" }, el("h2", {}, "About this run"), el("dl", { class: "facts" }, rows.map(([name, text]) => [el("dt", {}, name), el("dd", {}, text)])),
      run.reports?.length ? el("p", { class: "reports" }, "Reports: ", run.reports.map((report, index) => [index ? " · " : "", el("a", { href: report.address, target: "_blank", rel: "noopener" }, report.title)])) : null,
      el("details", { open: isOpen }, el("summary", {}, "All settings"), el("pre", { tabindex: "0", "aria-label": "All settings" }, run.settings_toml ?? ""))),
  ];
}

function evaluationsTable(box, series) {
  const { x, columns } = series.evaluations;
  const names = [PROBE, PROBE_TRAIN, "probe_validation_bits_per_byte"].filter((name) => columns[name]);
  const titles = { [PROBE]: "validation, nats per token", [PROBE_TRAIN]: "training, nats per token", probe_validation_bits_per_byte: "validation, bits per byte" };
  put(box, table("Evaluations", [AXES[look.x][0], ...names.map((name) => ({ text: titles[name], class: "number" }))], x.map((at, index) => [AXES[look.x][1](at), ...names.map((name) => form.nats(columns[name][index], 3))])));
}
