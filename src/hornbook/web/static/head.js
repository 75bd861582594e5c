// What every view of one run begins with: its name, its views, its verdict.
import { WITHIN, get, runPath } from "./api.js";
import { el, tag } from "./dom.js";
import { stateTag } from "./runs.js";

const VIEWS = [["", "Overview"], ["samples", "Samples"], ["evaluation", "Evaluation"], ["memorization", "Memorization"]];
const WORDS = { good: "Healthy", warning: "Look closer", bad: "Went wrong", neutral: "So far" };

export const ABOUT_PROBE = "Probe: a fixed sample of the validation text, and one of the training text, scored again and again while a run trains. A finished run is scored on all of the validation text, or on all outside the probe.";

export const runOf = (id) => get(runPath(id), { within: WITHIN });

export function heading(run, here) {
  const id = encodeURIComponent(run.id);
  return el("header", { class: "run-head" },
    el("p", { class: "crumbs" }, el("a", { href: "#/" }, "Runs"), " / "),
    el("h1", {}, run.title, " ", stateTag(run)),
    el("nav", { class: "tabs", "aria-label": "Views of this run" },
      VIEWS.map(([view, text]) => el("a", { href: `#/run/${id}${view ? `/${view}` : ""}`, "aria-current": view === here ? "page" : null }, text)),
      el("a", { href: `#/inspect?run=${id}` }, "Inspect"), el("a", { href: `#/compare?runs=${id}` }, "Compare")));
}

const isCutShort = (run) => !run.problem && (run.state === "interrupted" || run.state === "unfinished");

/** The first thing said of a run: a tag, and a sentence that has its reason. */
export function verdict(run) {
  const known = run.problem ? { tag: "bad", name: "Damaged", sentence: run.problem } : run.verdict;
  if (!known?.sentence) return el("section", { class: "verdict tone-neutral" }, tag("neutral", "not known yet"), el("p", {}, "Nothing can be concluded yet: the run has not been evaluated."));
  const lead = known.name ?? WORDS[known.tag];
  const rest = known.sentence.startsWith(`${lead}: `) ? known.sentence.slice(lead.length + 2) : known.sentence;
  return el("section", { class: `verdict tone-${known.tag}`, "aria-label": "Verdict" }, tag(known.tag, lead), el("p", {}, rest, isCutShort(run) ? [" Resume it with ", el("code", {}, `hornbook train --out ${run.shell_path}`), "."] : null));
}
