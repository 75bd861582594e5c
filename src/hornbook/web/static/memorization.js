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
    box.append(empty("Not measured yet", "The curves only hint at it. This measures what the model repeats word for word, against text that it has not seen:", `hornbook memorize ${run.id}`));
    return;
  }
  const share = (value) => form.percent(value, value > 0 && value < 0.1 ? 1 : 0);
  const more = (text, pair) => (pair ? `${share(pair[0])} to ${share(pair[1])} ${text} (95 %)` : "");
  const rows = [
    ["continued word for word", report.extraction_rate, report.control_extraction_rate, more("more than of the text not seen", report.excess_extraction_rate_interval_95)],
    ["copied in its own samples", report.copied_share, report.control_copied_share, more("of the training text", report.copied_share_interval_95)],
  ];
  const losses = [["training text", report.train_loss_nats_per_token], ["text not seen", report.heldout_loss_nats_per_token, "own"]].filter((row) => Number.isFinite(row[1]));
  box.append(el("div", { class: "pair" },
    rows.filter((row) => Number.isFinite(row[1])).map(([name, value, control, between]) => el("section", { class: "card" }, el("h2", {}, name[0].toUpperCase() + name.slice(1)),
      bars(name, [["training text", value], ["text not seen (control)", control ?? 0, "own"]], share, 1), between ? el("p", { class: "small muted" }, `${between}`) : null)),
    losses.length === 2 ? el("section", { class: "card" }, el("h2", {}, "Loss on both"), bars("Loss", losses, form.nats, Math.max(...losses.map((row) => row[1]))), el("p", { class: "small muted" }, `Nats per token. Telling one from the other by its loss succeeds in ${share(report.membership_auc)} of pairs (half is chance).`)) : null));
  if (report.passages?.length) {
    box.append(el("section", { class: "card" }, el("h2", {}, "Passages it continues word for word"), el("ul", { class: "passages" }, report.passages.slice(0, 10).map((one) => el("li", {}, el("span", { class: "muted" }, form.visible(one.prompt)), el("mark", {}, form.visible(one.matched_text)), el("span", { class: "small muted" }, ` ${one.matched_tokens} tokens, ${one.document}`))))));
  }
  if (report.extraction?.length) {
    box.append(el("section", { class: "card" }, el("h2", {}, "By length of the passage"), table("Extraction by length", ["given and continued", { text: "training text", class: "number" }, { text: "text not seen", class: "number" }], report.extraction.map((one) => [`${one.prefix_tokens} + ${one.suffix_tokens} tokens`, share(one.extraction_rate), share(one.control_extraction_rate)]))));
  }
}
