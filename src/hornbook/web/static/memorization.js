// What the model has by heart: the value, its control, and the passages themselves.
import { el, empty, put, table, tag } from "./dom.js";
import * as form from "./format.js";
import { bars } from "./evaluation.js";
import { heading, runOf } from "./head.js";

export const title = (place) => `Memorization of ${place.id}`;

export async function show(box, context) {
  const run = await runOf(context.id);
  const report = run.memorization_report;
  put(box, heading(run, "memorization"));
  const known = run.memorization;
  const tone = known?.by_heart ? "bad" : known?.by_heart === false && known.is_measured ? "good" : "neutral";
  box.append(el("section", { class: `verdict tone-${tone}` }, tag(tone, known?.by_heart ? (known.is_measured ? "by heart" : "probably by heart") : known?.by_heart === false ? "not by heart" : "not known yet"),
    el("p", {}, report?.verdict ?? known?.sentence ?? "The curves do not tell yet.")));
  if (!report) {
    box.append(empty("Not measured yet", "The curves only hint at it. This measures what the model repeats word for word, against text that it has not seen:", `hornbook memorize ${run.shell_path}`));
    return;
  }
  const share = (value) => form.percent(value, value > 0 && value < 0.1 ? 1 : 0);
  const between = (pair, text) => (pair ? ` ${share(pair[0])} to ${share(pair[1])} (95 %) ${text}` : "");
  const grounds = report.grounds ?? null; // of a report that is older: not known
  const sign = (ground) => grounds && el("p", {}, grounds.includes(ground) ? tag("bad", "shows memorization") : tag("neutral", "shows none"));
  const measure = (ground, heading, rows, write, most, ...about) => el("section", { class: "card" }, el("h2", {}, heading), sign(ground), bars(heading, rows, write, most), about.map((text) => el("p", { class: "small muted" }, text)));
  const losses = [["training text", report.train_loss_nats_per_token], ["text not seen", report.heldout_loss_nats_per_token, "own"]];
  box.append(el("section", { "aria-label": "What is measured" },
    el("p", { class: "muted" }, "Three measures look for different things. One of them beyond its control is enough for by heart: a model may know its text far better than new text, and yet lose the thread within any one passage."),
    el("div", { class: "pair" },
      measure("extraction", "Continued word for word", [["training text", report.extraction_rate], ["text not seen (control)", report.control_extraction_rate ?? 0, "own"]], share, 1,
        `Passages whose continuation the model writes without one wrong token, always taking the most probable.${between(report.excess_extraction_rate_interval_95, "more than of the text not seen.")}`),
      Number.isFinite(report.copied_share) ? measure("copying", "Copied in its own samples", [["its samples", report.copied_share], ["text not seen (control)", report.control_copied_share ?? 0, "own"]], share, 1,
        `Share of its free samples that stands in the training text, in spans longer than chance gives.${between(report.copied_share_interval_95, "of the samples.")}`) : null,
      losses.every((row) => Number.isFinite(row[1])) ? measure("gap", "Loss on both", losses, form.nats, Math.max(...losses.map((row) => row[1])),
        `Nats per token.${between(report.generalization_gap_share_interval_95, "of the loss on new text is gone on the training text.")} Telling one from the other by its loss succeeds in ${share(report.membership_auc)} of pairs (half is chance).`) : null)));
  const passages = (report.passages ?? []).filter((one) => one.matched_tokens);
  if (passages.length) {
    const whole = (one) => (one.num_tokens ? `${one.matched_tokens} of ${one.num_tokens}` : `${one.matched_tokens}`);
    box.append(el("section", { class: "card" }, el("h2", {}, "Training passages that it continues the furthest"), el("p", { class: "small muted" }, "Grey: what the model was given. Marked: what it wrote as the text does."), el("ul", { class: "passages" }, passages.slice(0, 10).map((one) => el("li", {}, el("span", { class: "muted" }, form.visible(one.prompt)), el("mark", {}, form.visible(one.matched_text)), el("span", { class: "small muted" }, ` ${whole(one)} tokens, ${one.document}`))))));
  }
  if (report.extraction?.length) {
    box.append(el("section", { class: "card" }, el("h2", {}, "Continued word for word, by length of the passage"), table("Extraction by length", ["given and continued", { text: "training text", class: "number" }, { text: "text not seen", class: "number" }], report.extraction.map((one) => [`${one.prefix_tokens} + ${one.suffix_tokens} tokens`, share(one.extraction_rate), share(one.control_extraction_rate)]))));
  }
}
