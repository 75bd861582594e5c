// All runs of the folder: which is best, how each went, what it cost.
import { WITHIN, get, listen } from "./api.js";
import { connection } from "./app.js";
import { SIGNS, arrange, el, empty, field, put, svg, tag } from "./dom.js";
import * as form from "./format.js";
import { ABOUT_PROBE } from "./head.js";

export const title = () => "Runs";

const STATES = { running: ["live", "running"], finished: ["neutral", "finished"], interrupted: ["warning", "interrupted"], unfinished: ["warning", "unfinished"], damaged: ["bad", "damaged"] };

export function stateTag(run) {
  const [kind, text] = STATES[run.state] ?? ["neutral", run.state];
  return tag(kind, text);
}

const best = (run) => run.bits_per_byte ?? null;
const progress = (run) => (run.planned_steps ? Math.min(1, run.step / run.planned_steps) : null);

const COLUMNS = [
  { key: "title", text: "Run", of: (run) => run.title, cell: nameCell },
  { key: "state", text: "State", of: (run) => run.state, cell: stateCell },
  { key: "verdict", text: "Verdict", of: (run) => ["bad", "warning", "neutral", "good"].indexOf(run.verdict?.tag), cell: verdictCell },
  { key: "curve", text: "Loss so far", cell: (run) => sparkline(run) },
  { key: "loss", text: "Loss", unit: "nats per token", number: true, of: (run) => run.loss_nats_per_token, cell: (run) => [measured(run, "loss_nats_per_token", form.nats), lowestOf(run)] },
  { key: "bits", text: "Bits per byte", unit: "any tokenizer", number: true, of: best, cell: (run) => measured(run, "bits_per_byte", form.nats) },
  { key: "memorized", text: "By heart", of: (run) => Number(run.memorization?.by_heart ?? -1), cell: memorizationCell },
  { key: "cost", text: "Cost", number: true, of: (run) => run.wall_seconds, cell: costCell },
  { key: "plan", text: "Against plan", number: true, of: (run) => planFactor(run)?.factor, cell: planCell },
  { key: "started", text: "Begun", number: true, of: (run) => run.started, cell: (run) => form.date(run.started).split(", ").map((part) => el("span", { class: "about nowrap" }, part)) },
];

const choice = { sort: "started", down: true, filter: "", group: "", chosen: new Set() };

export async function show(box, context) {
  const byId = new Map();
  const kept = keptTable();
  const read = async () => {
    const answer = await get("runs", { within: WITHIN });
    for (const run of answer.runs) if (JSON.stringify(run) !== JSON.stringify(byId.get(run.id))) byId.set(run.id, run);
    return answer;
  };
  let answer = await read();
  const list = el("div", { class: "runs" });
  const lead = el("div", { class: "lead" });
  const filter = el("input", { type: "search", placeholder: "name, text, optimizer, state …", value: choice.filter, on: { input: () => { choice.filter = filter.value; draw(); } } });
  const group = el("select", { on: { change: () => { choice.group = group.value; draw(); } } });
  const order = el("select", { on: { change: () => { [choice.sort, choice.down] = [order.value, order.value !== "title"]; draw(); } } },
    COLUMNS.filter((column) => column.of).map((column) => el("option", { value: column.key }, column.text)));
  const compare = el("a", { class: "button", href: "#/compare" }, "Compare");
  put(box, el("div", { class: "heading" }, el("h1", {}, "Runs"), el("p", { class: "muted path" }, answer.folder)), lead,
    el("div", { class: "controls" }, field("Filter", filter), field("Group by", group), el("div", { class: "phone-only" }, field("Sort by", order)), compare), list);

  async function draw() {
    const runs = [...byId.values()];
    if (!runs.length) {
      put(list, empty("No run yet", "A run appears here as soon as it begins. Train one in another terminal:", "hornbook train your-text.txt"));
      put(lead);
      return;
    }
    const differing = answer.differing.filter((name) => runs.some((run) => run.settings?.[name] !== undefined));
    if (group.dataset.of !== String(differing)) {
      group.dataset.of = String(differing);
      put(group, [["", "nothing"], ["text", "text"], ["model", "model"], ...differing.filter((name) => name !== "text.paths").map((name) => [name, name])].map(([value, text]) => el("option", { value, selected: value === choice.group }, text)));
    }
    order.value = choice.sort;
    const words = choice.filter.toLowerCase().split(/\s+/).filter(Boolean);
    const shown = sorted(runs.filter((run) => words.every((word) => matches(run, word))));
    const value = (run) => (choice.group === "text" || choice.group === "model" ? run[choice.group] : form.setting(run.settings?.[choice.group]));
    const groups = choice.group ? Map.groupBy(shown, value) : new Map([["", shown]]);
    const showsAll = shown.length === runs.length;
    arrange(list, [shown.length ? whole(groups, draw, kept) : el("p", { class: "muted" }, "No run matches the filter."),
      shown.length ? el("p", { class: "small muted" }, ABOUT_PROBE) : null,
      showsAll ? null : el("p", { class: "muted small" }, `${shown.length} of ${runs.length} runs match.`)].filter(Boolean));
    for (const id of choice.chosen) if (!byId.has(id)) choice.chosen.delete(id);
    compare.hash = `#/compare?runs=${[...choice.chosen].map(encodeURIComponent).join(",")}`;
    compare.hidden = choice.chosen.size < 2;
    compare.textContent = `Compare ${choice.chosen.size} runs`;
  }

  await draw();
  while (answer.num_unread && context.isCurrent()) {
    put(lead, el("p", { class: "muted", role: "status" }, `Reading the logs of ${form.whole(answer.num_unread)} more ${answer.num_unread === 1 ? "run" : "runs"} …`));
    context.reveal();
    answer = await read();
    await draw();
  }
  if (!context.isCurrent()) return;
  context.onLeave(listen("events", { runs: (news) => {
    for (const run of news.runs) byId.set(run.id, run);
    for (const id of news.removed) byId.delete(id);
    const open = document.activeElement;
    const place = open?.id && list.contains(open) ? open.id : null;
    draw();
    if (place) document.getElementById(place)?.focus();
    leadSentence([...byId.values()], lead);
  } }, connection));
  leadSentence([...byId.values()], lead);
}

/** A word of the filter; a setting only as name=value. */
function matches(run, word) {
  const words = word.includes("=") ? Object.entries(run.settings ?? {}).map(([name, value]) => `${name}=${value}`) : [run.title, run.text, run.model, run.optimizer, run.state, run.verdict?.name];
  return words.join(" ").toLowerCase().includes(word);
}

function sorted(runs) {
  const column = COLUMNS.find((one) => one.key === choice.sort);
  const sign = choice.down ? -1 : 1;
  return runs.sort((a, b) => {
    const [x, y] = [column.of(a), column.of(b)];
    if (x === null || x === undefined) return 1;
    if (y === null || y === undefined) return -1;
    return sign * (typeof x === "string" ? x.localeCompare(y) : x - y);
  });
}

/** The parts of the table that stay from one drawing to the next. */
function keptTable() {
  const [caption, head, bodies] = [el("caption", { class: "unseen" }, "Runs"), el("thead"), new Map()];
  const whole = el("table", { class: "list" });
  return { caption, head, bodies, table: whole, node: el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Runs" }, whole) };
}

function whole(groups, draw, kept) {
  const head = el("tr", {}, el("th", { scope: "col", class: "pick" }, el("span", { class: "unseen" }, "Choose to compare")), COLUMNS.map((column) => {
    const isSorted = column.key === choice.sort;
    const text = [column.text, column.unit ? el("span", { class: "unit" }, column.unit) : null];
    return el("th", { scope: "col", class: `${column.number ? "number" : ""} col-${column.key}`, "aria-sort": isSorted ? (choice.down ? "descending" : "ascending") : null },
      column.of ? el("button", { type: "button", id: `sort-${column.key}`, class: "sort", on: { click: () => {
        [choice.sort, choice.down] = [column.key, isSorted ? !choice.down : ["bits", "loss", "title"].includes(column.key) ? false : true];
        draw();
        document.getElementById(`sort-${column.key}`).focus();
      } } }, text, el("span", { class: "arrow", "aria-hidden": "true" }, isSorted ? (choice.down ? "↓" : "↑") : "↕")) : text);
  }));
  const bodies = [...groups].map(([name, runs]) => {
    if (!kept.bodies.has(name)) kept.bodies.set(name, el("tbody"));
    const title = name !== "" ? el("tr", { class: "group" }, el("th", { scope: "rowgroup", colspan: COLUMNS.length + 1 }, `${choice.group}: ${name}`, el("span", { class: "muted" }, ` · ${runs.length} ${runs.length === 1 ? "run" : "runs"}`))) : null;
    return arrange(kept.bodies.get(name), [title, ...runs.map((run) => row(run, draw))].filter(Boolean));
  });
  arrange(kept.table, [kept.caption, put(kept.head, head), ...bodies]);
  return kept.node;
}

const drawn = new WeakMap(); // a run that has not changed is not drawn again: to sort moves rows

function row(run, draw) {
  if (drawn.get(run)?.draw === draw) return drawn.get(run).node;
  const pick = el("input", { type: "checkbox", id: `pick-${run.id}`, checked: choice.chosen.has(run.id), "aria-label": `Compare ${run.title}`, on: { change: () => {
    if (pick.checked) choice.chosen.add(run.id);
    else choice.chosen.delete(run.id);
    draw();
    document.getElementById(`pick-${run.id}`)?.focus();
  } } });
  const node = el("tr", { class: `run tone-${run.verdict?.tag ?? (run.state === "damaged" ? "bad" : "neutral")}` }, el("td", { class: "pick" }, pick), COLUMNS.map((column, index) =>
    el(index ? "td" : "th", { scope: index ? null : "row", class: `${column.number ? "number" : ""} col-${column.key}`, dataset: { label: column.text } }, column.cell(run))));
  drawn.set(run, { draw, node });
  return node;
}

function nameCell(run) {
  return [el("a", { class: "name", href: `#/run/${encodeURIComponent(run.id)}`, id: `run-${run.id}` }, run.title), el("span", { class: "about" }, [run.text, run.num_parameters ? `${form.compact(run.num_parameters)} parameters` : null, run.optimizer].filter(Boolean).join(" · "))];
}

function stateCell(run) {
  const share = progress(run);
  return [stateTag(run), el("span", { class: "about" }, run.planned_steps && run.step !== run.planned_steps ? `${form.whole(run.step)} of ${form.whole(run.planned_steps)} steps` : `${form.whole(run.step)} steps`),
    run.is_running && share !== null ? el("progress", { max: 1, value: share, "aria-label": "Progress" }) : null];
}

function verdictCell(run) {
  if (run.problem) return el("span", { class: "sentence" }, run.problem);
  return run.verdict?.sentence ? el("span", { class: "sentence" }, el("span", { class: `sign ${run.verdict.tag}`, "aria-hidden": "true" }, `${SIGNS[run.verdict.tag] ?? "–"} `), run.verdict.sentence) : form.DASH;
}

function measured(run, name, write) {
  const value = run[name];
  if (value === null || value === undefined) return form.DASH;
  const pair = run[`${name}_interval_95`];
  return [el("span", { class: "big" }, write(value)), el("span", { class: "about nowrap" }, pair ? `${write(pair[0])} to ${write(pair[1])}` : run.loss_about === "probe" ? "on a sample (probe), so far" : "")];
}

function lowestOf({ probe_lowest: lowest }) {
  return lowest ? el("span", { class: "about lowest" }, `lowest ${form.nats(lowest.loss_nats_per_token)} at step ${form.whole(lowest.step)} (probe)`) : null;
}

function memorizationCell(run) {
  const known = run.memorization;
  if (!known) return el("span", { class: "muted" }, "not known");
  const text = known.by_heart === null || known.by_heart === undefined ? "not known" : known.by_heart ? (known.is_measured ? "yes" : "probably") : known.is_measured ? "no" : "no sign";
  return [tag(known.by_heart ? "bad" : known.by_heart === false ? "good" : "neutral", text), el("span", { class: "about" }, known.is_measured ? "measured" : "by the curves")];
}

function costCell(run) {
  return [el("span", { class: "nowrap" }, form.time(run)), el("span", { class: "about nowrap" }, run.price_usd === null || run.price_usd === undefined ? `${form.compact(run.tokens)} tokens` : form.price(run))];
}

export function planFactor(run) {
  const time = (run.plan ?? []).find((entry) => entry.name === "wall_seconds" && entry.predicted && entry.actual);
  return time && run.state === "finished" ? { ...time, factor: time.actual / time.predicted } : null;
}

function planCell(run) {
  const time = planFactor(run);
  const planned = (run.plan ?? []).find((entry) => entry.name === "wall_seconds")?.predicted;
  if (!time) return planned ? [el("span", { class: "nowrap" }, form.seconds(planned)), el("span", { class: "about" }, "planned")] : form.DASH;
  const isOver = time.factor > 1;
  return [el("span", { class: "nowrap" }, `${form.percent(Math.abs(time.factor - 1))} ${isOver ? "longer" : "shorter"}`), el("span", { class: "about nowrap" }, time.inside === null ? "" : time.inside ? "in its range" : "out of its range")];
}

export function sparkline(run, width = 88, height = 32) {
  const { x = [], y = [] } = run.sparkline ?? {};
  const points = x.map((at, index) => [at, y[index]]).filter((point) => Number.isFinite(point[1]));
  if (points.length < 2) return el("span", { class: "muted" }, form.DASH);
  const last = Math.max(run.planned_steps ?? 0, points.at(-1)[0]) || 1;
  const [low, high] = [Math.min(...points.map((p) => p[1])), Math.max(...points.map((p) => p[1]))];
  const place = ([at, value]) => [2 + (width - 6) * (at / last), 3 + (height - 6) * (1 - (value - low) / (high - low || 1))];
  const end = place(points.at(-1));
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, class: "spark", role: "img", "aria-label": `Loss from ${form.nats(points[0][1])} to ${form.nats(points.at(-1)[1])}` },
    svg("polyline", { points: points.map((p) => place(p).map((v) => v.toFixed(1)).join(",")).join(" ") }),
    svg("circle", { cx: end[0].toFixed(1), cy: end[1].toFixed(1), r: 2.4 }));
}

/** Which is best, and whether that is beyond chance: of the finished runs on each text, asked of the paired comparison. */
export const BETWEEN_WEIGHTS = "between these two sets of weights; the noise between seeds is not in it";
let asked = "";
async function leadSentence(runs, lead) {
  const done = runs.filter((run) => run.loss_about === "validation" && best(run) !== null && run.state !== "damaged");
  const key = JSON.stringify(runs.map((run) => [run.id, run.state, run.verdict?.name, done.includes(run) && best(run)]));
  if (key === asked && lead.childElementCount) return;
  asked = key;
  const texts = [...Map.groupBy(done, (run) => run.text)].sort((a, b) => b[1].length - a[1].length).slice(0, 4);
  const lines = await Promise.all(texts.map(async ([text, same]) => {
    const [first, second] = same.sort((a, b) => best(a) - best(b));
    const name = el("a", { href: `#/run/${encodeURIComponent(first.id)}` }, first.title);
    const alone = [el("strong", {}, "Lowest loss on ", text, ": "), name, ` with ${form.nats(best(first))} bits per byte`];
    if (!second) return el("li", {}, el("strong", {}, "Only one on ", text, ": "), name, ` with ${form.nats(best(first))} bits per byte.`);
    const pair = await get("compare", { runs: `${first.id},${second.id}` }).then((answer) => answer.pairs[0]).catch(() => null);
    if (!pair || pair.problem || pair.difference_bits_per_byte === null) return el("li", {}, alone, `; ${second.title} has ${form.nats(best(second))}.`);
    const between = pair.difference_bits_per_byte_interval_95;
    return el("li", {}, alone, `, ${form.nats(Math.abs(pair.difference_bits_per_byte), 3)} below `, el("a", { href: `#/run/${encodeURIComponent(second.id)}` }, second.title),
      between ? ` (95 % ${between.map((value) => form.nats(value, 3)).join(" to ")})` : "", ": ",
      tag(pair.beyond_chance ? "good" : "neutral", pair.beyond_chance ? "beyond chance" : "may be chance"), ` ${BETWEEN_WEIGHTS}. `,
      el("a", { href: `#/compare?runs=${encodeURIComponent(first.id)},${encodeURIComponent(second.id)}` }, "Compare"));
  }));
  const running = runs.filter((run) => run.is_running).length;
  const failed = runs.filter((run) => run.verdict?.tag === "bad" || run.state === "damaged");
  const doubtful = runs.filter((run) => !failed.includes(run) && (["Unstable", "Diverged"].includes(run.verdict?.name) || ["interrupted", "unfinished"].includes(run.state)));
  const named = (kind, text, some) => (some.length ? el("li", {}, tag(kind, text), " ", some.map((run, index) => [index ? ", " : "", el("a", { href: `#/run/${encodeURIComponent(run.id)}` }, run.title)]), ".") : null);
  put(lead, el("ul", {}, lines,
    running ? el("li", {}, tag("live", "running"), ` ${running} ${running === 1 ? "run goes" : "runs go"} on.`) : null,
    named("bad", "went wrong", failed), named("warning", "unstable or not at its end", doubtful)));
}
