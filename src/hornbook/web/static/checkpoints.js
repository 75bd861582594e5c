// A slider through the checkpoints of a run.
import { el, field } from "./dom.js";
import * as form from "./format.js";

/** `onInput` is told when another step is chosen. `of(run, step)` shows the steps of a run: the one that is asked for,
 * that whose weights the run uses, or the last. */
export function checkpointSlider(onInput) {
  let steps = [];
  const slider = el("input", { type: "range", step: 1, min: 0, on: { input: () => { one.step = steps[slider.value]; label(); onInput(); } } });
  const where = el("output", {});
  const label = () => { where.textContent = one.step === null ? "none" : `step ${form.whole(one.step)}`; slider.setAttribute("aria-valuetext", where.textContent); };
  const one = {
    step: null, node: field("Checkpoint", slider, where),
    of(run, asked = null) {
      const used = run.checkpoints?.find((checkpoint) => checkpoint.is_used)?.step;
      steps = [...new Set((run.checkpoints ?? []).map((checkpoint) => checkpoint.step))].sort((a, b) => a - b);
      one.step = steps.includes(asked) ? asked : steps.includes(used) ? used : steps.at(-1) ?? null;
      slider.max = Math.max(0, steps.length - 1);
      slider.value = Math.max(0, steps.indexOf(one.step));
      slider.disabled = steps.length < 2;
      label();
    },
  };
  return one;
}
