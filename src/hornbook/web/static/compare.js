// Runs over each other: their curves, the settings that differ, and whether the difference is beyond chance.
import { get, runPath } from "./api.js";
import { chart, joined } from "./chart.js";
import { el, empty, failure, field, put, table, tag } from "./dom.js";
import * as form from "./format.js";
import { isSteep, smoothed } from "./run.js";
import { BETWEEN_WEIGHTS, stateTag } from "./runs.js";

export const title = () => "Compare";
const MOST = 6;
const PROBE = "probe_validation_loss_nats_per_token";
const TRAIN = "train_loss_nats_per_token";
const AXES = { step: "Steps", tokens: "Tokens", epoch: "Epochs", seconds: "Time", flops: "FLOPs", price_usd: "Money" };
const look = { x: "step", y: PROBE };

export async function show(box, context) {
  const { runs } = await get("runs");
  const able = runs.filter((run) => run.state !== "damaged").reverse();
  const ids = (context.query.get("runs") ?? "").split(",").filter((id) => able.some((run) => run.id === id));
  put(box, el("div", { class: "heading" }, el("h1", {}, "Compare")));
  if (able.length < 2) {
    box.append(empty("Not enough runs", "Two runs or more can be laid over each other.", "hornbook train your-text.txt --train.seed 1"));
    return;
  }
  const chosen = new Set(ids);
  const go = () => { location.hash = address([...chosen], context.query.get("reference")); };
  const filter = el("input", { type: "search", on: { input: () => { for (const item of picks.children) item.hidden = !item.textContent.toLowerCase().includes(filter.value.toLowerCase()); } } });
  const picks = el("ul", { class: "picks" }, able.map((run) => {
    const input = el("input", { type: "checkbox", checked: chosen.has(run.id), disabled: !chosen.has(run.id) && chosen.size >= MOST, on: { change: () => { if (input.checked) chosen.add(run.id); else chosen.delete(run.id); go(); } } });
    return el("li", {}, el("label", { class: "check" }, input, run.title));
  }));
  box.append(el("details", { class: "card", open: ids.length < 2 }, el("summary", {}, `Runs (${ids.length} chosen, ${MOST} at most)`), able.length > 12 ? field("Filter", filter) : null, picks));
  if (ids.length < 2) {
    box.append(empty("Choose two runs", "Their curves, settings and the difference between them appear here."));
    return;
  }
  const rows = ids.map((id) => able.find((run) => run.id === id));
  const reference = rows.find((run) => run.id === context.query.get("reference")) ?? bestOnMost(rows);
  const answer = await get("compare", { runs: [reference.id, ...ids.filter((id) => id !== reference.id)].join(",") });
  box.append(...await curves(rows, context), pairs(answer, rows), groups(answer), settings(answer));
}

const address = (ids, reference) => `#/compare?runs=${ids.map(encodeURIComponent).join(",")}${reference ? `&reference=${encodeURIComponent(reference)}` : ""}`;

/** The best of the runs that were evaluated on the text of most of them. */
function bestOnMost(rows) {
  const able = rows.filter((run) => run.loss_about === "validation" && Number.isFinite(run.bits_per_byte));
  const [same] = [...Map.groupBy(able, (run) => run.text).values()].sort((a, b) => b.length - a.length);
  return same ? same.reduce((best, run) => (run.bits_per_byte < best.bits_per_byte ? run : best)) : rows[0];
}

function pairs(answer, rows) {
  const compared = answer.pairs.filter((pair) => !pair.problem);
  const about = new Set(compared.map((pair) => pair.interval_about));
  const known = compared.map((pair) => {
    const between = pair.difference_bits_per_byte_interval_95;
    const difference = pair.difference_bits_per_byte;
    const better = difference < 0 ? pair.b : pair.a;
    return el("li", {}, tag(pair.beyond_chance ? "good" : "neutral", pair.beyond_chance ? "beyond chance" : "may be chance"),
      el("p", {}, pair.beyond_chance ? [el("strong", {}, better), " is better: "] : "No clear winner: ", `${pair.b} has ${form.nats(Math.abs(difference), 3)} bits per byte ${difference < 0 ? "fewer" : "more"} than ${pair.a}.`),
      between ? whisker(difference, between) : null,
      el("p", { class: "small muted" }, [between ? form.interval(between, (v) => form.nats(v, 3)) : "no interval", about.size > 1 ? pair.interval_about : null, Number.isFinite(pair.share_of_documents_where_b_is_better) ? `${pair.b} is better on ${form.percent(pair.share_of_documents_where_b_is_better)} of the documents` : null].filter(Boolean).join(" · ")));
  });
  const unknown = [...Map.groupBy(answer.pairs.filter((pair) => pair.problem), (pair) => pair.problem)].map(([problem, same]) =>
    el("li", {}, tag("neutral", "no difference known"), el("p", {}, `${same.map((pair) => pair.b).join(", ")} against ${same[0].a}: ${problem}`)));
  const items = [...known, ...unknown];
  const reference = el("select", { on: { change: () => { location.hash = address(rows.map((run) => run.id), reference.value); } } }, rows.map((run) => el("option", { value: run.id, selected: run.id === answer.runs[0] }, run.title)));
  return el("section", { class: "card" }, el("h2", {}, "Difference, text by text"), field("Reference", reference), el("p", { class: "small muted" }, `Bits per byte on the same validation text, of each run minus ${answer.runs[0]}; below zero is better. What is beyond chance is so ${BETWEEN_WEIGHTS}.${about.size === 1 && compared[0].interval_about ? ` The intervals are about ${compared[0].interval_about}.` : ""}`), el("ul", { class: "pairs" }, items));
}

function whisker(value, [low, high]) {
  const reach = Math.max(Math.abs(low), Math.abs(high), 1e-9) * 1.1;
  const place = (x) => `${(50 + (50 * x) / reach).toFixed(2)}%`;
  return el("div", { class: "whisker", "aria-hidden": "true" }, el("span", { class: "zero" }), el("span", { class: "span", style: { left: place(low), width: `${((50 * (high - low)) / reach).toFixed(2)}%` } }), el("span", { class: "dot", style: { left: place(value) } }), el("span", { class: "end-label left" }, "better"), el("span", { class: "end-label right" }, "worse"));
}

function groups(answer) {
  if (!answer.groups?.length) return "";
  return el("section", { class: "card" }, el("h2", {}, "Seeds of one setting"), table("Groups", ["group", { text: "runs", class: "number" }, { text: "mean bits per byte", class: "number" }, { text: "standard deviation", class: "number" }], answer.groups.map((one) => [one.name, String(one.runs.length), form.nats(one.mean_bits_per_byte, 3), form.nats(one.standard_deviation, 3)])));
}

function settings(answer) {
  const names = Object.entries(answer.settings ?? {});
  return el("section", { class: "card" }, el("h2", {}, "Settings that differ"), names.length ? table("Settings that differ", ["setting", ...answer.runs], names.map(([name, values]) => [el("code", {}, name), ...values.map(form.setting)])) : el("p", { class: "muted" }, "None: these runs have the same settings."));
}

async function curves(rows, context) {
  const place = el("div", {});
  const left = el("p", { class: "small muted" });
  const priced = rows.filter((run) => run.price_usd > 0);
  if (look.x === "price_usd" && !priced.length) look.x = "step";
  const write = { step: form.compact, tokens: form.compact, epoch: (v) => String(Number(v.toPrecision(3))), seconds: form.seconds, flops: form.power, price_usd: form.usd };
  let drawn = null;
  async function draw() {
    const some = look.x === "price_usd" ? priced : rows;
    put(left, some.length < rows.length ? `Left out, for they have no price: ${rows.filter((run) => !some.includes(run)).map((run) => run.title).join(", ")}.` : "");
    const all = await Promise.all(some.map((run) => get(runPath(run.id, "/series"), { x: look.x, points: 500 })));
    if (!context.isCurrent()) return;
    const tables = all.map((series) => {
      if (look.y === PROBE) {
        const pairs = series.evaluations.x.map((x, index) => [x, series.evaluations.columns[PROBE]?.[index]]).filter(([, y]) => y !== null && y !== undefined).filter(([x], index, list) => index === 0 || x > list[index - 1][0]);
        if (pairs.length > 1) pairs.splice(1, 0, [(pairs[0][0] + pairs[1][0]) / 2, null]);
        return [pairs.map(([x]) => x), pairs.map(([, y]) => y)];
      }
      const values = series.columns[TRAIN] ?? [];
      const middle = series.is_reduced ? values[0].map((low, index) => (low === null ? null : (low + values[1][index]) / 2)) : values;
      return [series.x, smoothed(middle, 0.8)];
    });
    const data = joined(tables);
    const last = (values) => values.findLast((value) => value !== null && value !== undefined);
    const spec = { label: `${look.y === PROBE ? "Loss on the validation sample (probe)" : "Training loss"} against ${AXES[look.x].toLowerCase()}`, height: innerWidth < 700 ? 280 : 360,
      series: some.map((run) => ({ name: run.id, label: run.title, colour: `series-${rows.indexOf(run) + 1}`, width: 2, points: look.y === PROBE, size: 6, dash: rows.indexOf(run) > 2 ? [7, 4] : undefined })),
      x: { form: write[look.x] }, y: { form: (v) => form.nats(v), log: isSteep(data) }, lines: some.map((run, index) => ({ label: run.title.length > 14 ? `${run.title.slice(0, 13)}…` : run.title, value: last(tables[index][1]) ?? null, colour: `series-${rows.indexOf(run) + 1}-text`, isLabel: true })).filter((line) => line.value !== null) };
    drawn?.destroy();
    drawn = chart(place, spec, data);
  }
  context.onLeave(() => drawn?.destroy());
  const axis = el("select", { on: { change: () => { look.x = axis.value; draw().catch((error) => put(place, failure(error))); } } }, Object.entries(AXES).map(([value, text]) => el("option", { value, selected: value === look.x, disabled: value === "price_usd" && !priced.length }, text)));
  const which = el("select", { on: { change: () => { look.y = which.value; draw().catch((error) => put(place, failure(error))); } } }, [[PROBE, "validation sample (probe)"], [TRAIN, "training loss (smoothed)"]].map(([value, text]) => el("option", { value, selected: value === look.y }, text)));
  const card = el("section", { class: "card" }, el("div", { class: "card-head" }, el("h2", {}, "Curves"), el("div", { class: "controls" }, field("Show", which), field("Against", axis))), place, left,
    table("Runs", ["run", "state", { text: "nats per token", class: "number" }, { text: "bits per byte", class: "number" }, { text: "time", class: "number" }], rows.map((run) => [el("a", { href: `#/run/${encodeURIComponent(run.id)}` }, run.title), stateTag(run), form.nats(run.loss_nats_per_token), `${form.nats(run.bits_per_byte)}`, form.time(run)])));
  await draw();
  return [card];
}
