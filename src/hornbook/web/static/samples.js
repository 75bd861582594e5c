// How the same prompt's continuation changes from checkpoint to checkpoint.
import { get, listen, runPath } from "./api.js";
import { connection } from "./app.js";
import { checkpointSlider } from "./checkpoints.js";
import { el, empty, failure, field, put } from "./dom.js";
import * as form from "./format.js";
import { heading, runOf } from "./head.js";

export const title = (place) => `Samples of ${place.id}`;

export async function show(box, context) {
  const run = await runOf(context.id);
  const body = el("div", {});
  const own = ownPrompt(run);
  put(box, heading(run, "samples"), el("h2", { class: "view-title" }, "The same prompt, from checkpoint to checkpoint"), body, own.node);
  context.onLeave(() => own.stop());
  let places = [];

  async function read() {
    const { prompts } = await get(runPath(run.id, "/samples"));
    if (!context.isCurrent()) return;
    const listed = prompts.filter((entry) => entry.samples.length);
    if (!listed.length) return put(body, empty("No sample yet", "A run writes its first sample at step 0, and then every watch.sample_every steps."));
    const before = places;
    places = listed.map((entry, index) => (before[index]?.isLast ?? true ? { at: entry.samples.length - 1, isLast: true } : before[index]));
    put(body, listed.map((entry, index) => timeline(entry, places[index], run)));
    own.temperature = listed[0].samples[0].temperature ?? own.temperature;
  }
  await read();
  context.onLeave(listen(runPath(run.id, `/events?offset=${run.offset ?? 0}`), {
    samples: () => read().catch(() => {}),
    rows: ({ rows }) => { if (rows.some((row) => row.event === "checkpoint")) runOf(run.id).then((next) => own.of(next)).catch(() => {}); },
  }, connection));
}

const MOST_CHARACTERS = 4000;
const MOST_TOKENS = 100;
const kept = { prompt: "" };

/** What a checkpoint makes of a prompt of the reader's own: the same prompt again is the next draw. */
function ownPrompt(run) {
  const drawn = { key: "", seed: 0, stop: () => {} };
  const prompt = el("textarea", { rows: 2, maxlength: MOST_CHARACTERS, spellcheck: "false", value: kept.prompt, on: { input: () => { kept.prompt = prompt.value; } } });
  const checkpoint = checkpointSlider(() => {});
  const button = el("button", { type: "submit" }, "Continue it");
  const text = document.createTextNode("");
  const result = el("div", { class: "own-result", role: "status" });
  const node = el("section", { class: "card", "aria-label": "A prompt of your own" }, el("h2", {}, "A prompt of your own"),
    el("form", { class: "ask", on: { submit: (event) => { event.preventDefault(); ask(); } } }, field("Prompt; empty: the beginning of a document", prompt), el("div", { class: "controls" }, checkpoint.node, button)), result);

  function ask() {
    drawn.stop();
    if (checkpoint.step === null) return put(result, empty("No checkpoint yet", "This run has not saved any weights."));
    const key = JSON.stringify([checkpoint.step, prompt.value]);
    [drawn.key, drawn.seed] = [key, key === drawn.key ? drawn.seed + 1 : 0];
    text.data = "";
    const about = `step ${form.whole(checkpoint.step)} · temperature ${own.temperature} · seed ${drawn.seed} · ${MOST_TOKENS} tokens at most`;
    const state = el("p", { class: "small muted" }, `Writing … ${about}`);
    put(result, el("div", { class: "sample" }, el("p", { class: "sample-text" }, prompt.value ? el("span", { class: "prompt" }, prompt.value) : null, text), state));
    result.setAttribute("aria-busy", "true");
    const query = new URLSearchParams({ run: run.id, step: checkpoint.step, prompt: prompt.value, max_tokens: MOST_TOKENS, temperature: own.temperature, seed: drawn.seed });
    const end = (message) => {
      drawn.stop();
      result.removeAttribute("aria-busy");
      if (message) put(result, failure({ message }));
    };
    drawn.stop = listen(`generate?${query}`, {
      text: (part) => { text.data += part.text; }, problem: ({ error }) => end(error),
      end: () => { state.textContent = about; end(); },
    }, (isOpen) => { if (!isOpen) end("The dashboard does not answer: start it again with hornbook dashboard."); });
    return null;
  }
  const own = { node, temperature: 1, stop: () => drawn.stop(), of: (next) => checkpoint.of(next, checkpoint.step) };
  checkpoint.of(run);
  return own;
}

function timeline({ prompt, samples }, place, run) {
  const shown = el("div", { class: "sample", "aria-live": "polite" });
  const slider = el("input", { type: "range", min: 0, max: samples.length - 1, step: 1, value: place.at, on: { input: () => go(Number(slider.value)) } });
  const where = el("output", {});
  const back = el("button", { type: "button", "aria-label": "Earlier checkpoint", on: { click: () => go(place.at - 1) } }, "←");
  const on = el("button", { type: "button", "aria-label": "Later checkpoint", on: { click: () => go(place.at + 1) } }, "→");
  const film = samples.map((sample, index) => el("li", {}, el("button", { type: "button", class: "frame", on: { click: () => go(index) } },
    el("span", { class: "when" }, `step ${form.whole(sample.step)}`), el("span", { class: "frame-text" }, sample.text.replace(/\s+/g, " ").trim().slice(0, 150) || "(nothing)"))));

  function go(index) {
    place.at = Math.min(samples.length - 1, Math.max(0, index));
    place.isLast = place.at === samples.length - 1;
    slider.value = place.at;
    const sample = samples[place.at];
    where.textContent = `step ${form.whole(sample.step)}`;
    slider.setAttribute("aria-valuetext", where.textContent);
    back.disabled = place.at === 0;
    on.disabled = place.isLast;
    film.forEach((item, at) => item.firstElementChild.setAttribute("aria-pressed", String(at === place.at)));
    const frame = film[place.at];
    if (frame.parentElement) frame.parentElement.scrollTo({ left: frame.offsetLeft - frame.parentElement.offsetLeft - frame.parentElement.clientWidth / 2 + 90 });
    put(shown, el("p", { class: "sample-text" }, prompt ? el("span", { class: "prompt" }, prompt) : null, marked(sample)),
      el("p", { class: "small muted" }, [
        Number.isFinite(sample.probe_validation_loss_nats_per_token) ? `loss on the validation sample (probe) ${form.nats(sample.probe_validation_loss_nats_per_token)}` : null,
        Number.isFinite(sample.copied_share) ? `${form.percent(sample.copied_share)} of the samples copied from the training text` : sample.copied_spans?.length ? "marked: copied from the training text" : sample.copied_spans ? "nothing copied from the training text" : sample.copied_problem ?? "what is copied is not known yet",
        sample.temperature !== undefined ? `temperature ${sample.temperature}` : null, sample.seed !== undefined && sample.seed !== null ? `seed ${sample.seed}` : null,
      ].filter(Boolean).join(" · ")));
  }
  go(place.at);
  requestAnimationFrame(() => go(place.at));
  return el("section", { class: "card", "aria-label": prompt ? `Prompt ${prompt}` : "No prompt" },
    el("div", { class: "card-head" }, el("p", { class: "prompt-line" }, el("span", { class: "muted" }, "Prompt: "), prompt ? el("strong", {}, prompt) : "the beginning of a document"), el("div", { class: "controls slider" }, back, field("Checkpoint", slider, where), on)),
    shown, el("ol", { class: "film", "aria-label": "All checkpoints" }, film));
}

/** The text with the parts that stand in the training text marked. */
function marked({ text, copied_spans: spans }) {
  if (!spans?.length) return text;
  const parts = [];
  let at = 0;
  for (const [from, to] of spans) {
    parts.push(text.slice(at, from), el("mark", { title: "also in the training text" }, text.slice(from, to)));
    at = to;
  }
  return [...parts, text.slice(at)];
}
