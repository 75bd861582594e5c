"""Every number that is recorded or printed: its name, unit, direction, meaning, and how it is printed. Each once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hornbook.facts.errors import InputError, suggestion
from hornbook.facts.units import perplexity_text

Better = Literal["lower", "higher"] | None
Form = Callable[[float], str]


@dataclass(frozen=True)
class Metric:
    """`better` is None for a number that is neither good nor bad, such as a count. What has a `label` is printed by it
    and in this `form` on the terminal, in pages and in the model card, wherever a result has it."""

    name: str
    unit: str
    better: Better
    sentence: str
    label: str = ""
    form: Form = str

    @property
    def title(self) -> str:
        return self.label[:1].upper() + self.label[1:]

    @property
    def unit_in_words(self) -> str:
        return self.unit.replace("/", " per ") if self.unit.endswith("/token") else ""


def _perplexity(value: float) -> str:
    return perplexity_text(math.log(value))


_4, _3, _2, _SHARE = "{:.4f}".format, "{:.3f}".format, "{:.2f}".format, "{:.1%}".format

_TABLE: tuple[tuple[str, str, Better, str] | tuple[str, str, Better, str, str, Form], ...] = (
    # Where in a run: each can be the x-axis of the others.
    ("step", "steps", None, "Optimizer updates made so far."),
    ("best_step", "steps", None, "The step of the evaluation with the lowest probe validation loss."),
    ("used_step", "steps", None, "The step whose weights are evaluated and used as the run's model."),
    ("tokens", "tokens", None, "Training tokens so far; a token counts once in every epoch."),
    ("epoch", "epochs", None,
     "Complete passes over the training text so far; in one, each token is a target exactly once."),
    ("seconds", "s", None, "Training time so far, over all resumes, without evaluations."),
    ("flops", "FLOP", None, "Training FLOPs so far, forward and backward, computed from the shape."),
    ("wall_seconds", "s", None, "Wall time of the whole job, over all sessions of a run."),
    ("train_seconds", "s", None, "Time of the training steps alone, over all sessions of a run."),
    # Training.
    ("train_loss_nats_per_token", "nats/token", "lower",
     "Mean loss over the tokens of one batch, before the update."),
    ("probe_train_loss_nats_per_token", "nats/token", "lower",
     "Mean loss over a fixed set of windows of the training text."),
    ("probe_validation_loss_nats_per_token", "nats/token", "lower",
     "The same over fixed windows of the validation text (older logs: `validation_loss_nats_per_token`)."),
    ("probe_validation_bits_per_byte", "bits/byte", "lower", "The same in bits, per UTF-8 byte of these windows."),
    ("probe_generalization_gap_bits_per_byte", "bits/byte", "lower",
     "Bits per byte of the validation windows minus those of the training windows."),
    ("probe_train_window_nats", "nats/token", "lower", "Mean loss of each training window, in a fixed order."),
    ("probe_validation_window_nats", "nats/token", "lower", "Mean loss of each validation window, in a fixed order."),
    ("learning_rate", "", None, "Learning rate of the step, warm-up and decay included; with Muon, that of AdamW."),
    ("muon_learning_rate", "", None, "The same of the matrices that Muon updates."),
    ("gradient_norm", "", None, "Global L2 norm of the gradient, before clipping."),
    ("tokens_per_second", "tokens/s", "higher", "Training tokens per second of training time."),
    ("mfu", "", "higher",
     "Model FLOPs utilisation by PaLM's formula: share of the peak FLOP/s; on a CPU, of a measured matrix product."),
    # Surprise.
    ("validation_loss_nats_per_token", "nats/token", "lower",
     "Mean loss over all tokens of the validation text, never trained on; where the weights were chosen on the probe, "
     "over the tokens outside it.", "loss", _4),
    ("chosen_on_this_text", "", None,
     "Whether the weights were chosen on most of the validation text, so that its loss is slightly optimistic "
     "(true or false)."),
    ("outside_probe", "", None, "Whether the loss is that of the validation text outside the probe (true or false)."),
    ("loss_nats_per_token", "nats/token", "lower",
     "Mean of −ln p over the scored tokens: the negative average log-probability.", "loss", _4),
    ("perplexity", "tokens", "lower",
     "exp(loss): in effect, the number of equally likely tokens the model chooses between.", "perplexity",
     _perplexity),
    ("bits_per_byte", "bits/byte", "lower",
     "nats / (ln 2 · UTF-8 bytes): the only one to compare models with different tokenizers.", "bits per byte", _4),
    ("top1_accuracy", "", "higher",
     "Share of the scored tokens that the model found most probable; n equally probable ones count 1/n each.",
     "top-1 accuracy", _SHARE),
    ("bits_per_character", "bits/char", "lower",
     "nats / (ln 2 · characters): comparable across tokenizers on one text, not across scripts."),
    ("perplexity_per_word", "words", "lower", "exp(nats / words), words being separated by white space."),
    ("nats", "nats", "lower", "Sum of −ln p over the scored tokens."),
    ("end_nats", "nats", "lower", "−ln p of the end-of-text token at the end of a document; in no other sum."),
    ("end_nats_per_document", "nats/document", "lower", "Mean of that over documents."),
    ("difference_bits_per_byte", "bits/byte", "lower",
     "Bits per byte of model B minus those of model A on the same text; negative: B is better."),
    # One token.
    ("logit", "", None, "The model's raw score of a token; only differences between tokens matter."),
    ("probability", "", "higher",
     "Softmax probability of the actual token: e^logit over the sum of e^logit of all tokens."),
    ("log_probability", "nats", "higher", "Natural logarithm of that probability; 0 is certainty."),
    ("rank", "", "lower",
     "Rank of the actual token by probability, 1 being the top guess; ties share the mean rank."),
    ("entropy_nats", "nats", None, "Entropy of the prediction: the loss the model itself expected."),
    # Counts.
    ("num_tokens", "tokens", None, "Scored tokens."),
    ("num_bytes", "bytes", None, "UTF-8 bytes of the scored text."),
    ("num_characters", "characters", None, "Characters (Unicode code points) of the scored text."),
    ("num_words", "words", None, "Words of the scored text, as white space separates them."),
    ("num_documents", "documents", None, "Documents evaluated."),
    # Memorization, and cost.
    ("extraction_rate", "", "lower", "Share of training passages that greedy decoding continues word for word.",
     "continued word for word", _SHARE),
    ("control_extraction_rate", "", None,
     "The same share for held-out passages, which it cannot have memorized.", "of held-out text", _SHARE),
    ("copied_share", "", "lower",
     "Share of the model's samples that is also in the training text, in longer spans than new text shares with it.",
     "copied in its samples", _SHARE),
    ("control_copied_share", "", None,
     "The same share for held-out text: what two texts of this kind share anyway.", "of held-out text",
     _SHARE),
    ("trained_on_share", "", None,
     "Share of the scored text's bytes that are in the model's training text too, in spans of about 48 or more."),
    ("lost_share", "", "lower",
     "Share of the scored text's bytes that decoding its tokens does not restore: unknown or changed characters."),
    ("leaked_share", "", "lower",
     "Share of the validation text's words in sequences of 8 or more that the training text has, in passages of 24."),
    ("leaked_share_with_changes", "", "lower",
     "The same with the words between such sequences, at most 16 in a row, as in a copy with changed words."),
    ("validation_leaked", "", None, "Whether the share with changes is 1 % or more (true or false)."),
    ("generalization_gap_bits_per_byte", "bits/byte", "lower",
     "Bits per byte of held-out text minus those of training text: what was learned about the training text only.",
     "gap, bits per byte", _3),
    ("excess_gap_bits_per_byte", "bits/byte", "lower",
     "That gap minus the gap of models trained on neither text, which is due to the texts themselves.",
     "gap beyond a reference", _3),
    ("membership_auc", "", None,
     "How often a training passage has a lower loss than a held-out one: 0.5 is chance, 1 separates all of them.",
     "membership AUC", _2),
    ("gpu_hours", "device-hours", "lower", "Devices held, times hours."),
    ("energy_kwh", "kWh", "lower", "Energy by the accelerator's or the processors' own counter."),
    ("price_usd", "USD", "lower", "Hours times the price given."),
    ("peak_memory_bytes", "bytes", "lower", "Peak memory of the job: on the accelerator, or of the process."),
    ("forecast_loss_nats_per_token", "nats/token", "lower",
     "Forecast of the final validation loss from this run's own curve so far."),
)  # fmt: skip

METRICS: dict[str, Metric] = {row[0]: Metric(*row) for row in _TABLE}


def metric(name: str) -> Metric:
    """Return the metric of that name. Raises InputError with the nearest name.

    >>> metric("bits_per_byte").unit, metric("bits_per_byte").better
    ('bits/byte', 'lower')
    """
    if name not in METRICS:
        raise InputError(f'there is no metric "{name}"{suggestion(name, METRICS)}')
    return METRICS[name]


def interval_text(numbers: Mapping[str, Any], name: str, form: Form) -> str:
    """`95 % 0.1 to 0.2`; "" where there is no interval, or more than a number holds."""
    pair = numbers.get(f"{name}_interval_95")
    if pair is None or None in pair or not math.isfinite(pair[1]):
        return ""
    return f"95 % {form(pair[0])} to {form(pair[1])}"


def printed(numbers: Mapping[str, Any]) -> list[tuple[Metric, str, str]]:
    """(metric, number, interval) as text, of each metric with a label that `numbers` have, in the order of METRICS.

    >>> [(m.label, value, interval) for m, value, interval in printed({"bits_per_byte": 1.0, "step": 3})]
    [('bits per byte', '1.0000', '')]
    """
    return [
        (known, known.form(numbers[name]), interval_text(numbers, name, known.form))
        for name, known in METRICS.items()
        if known.label and numbers.get(name) is not None
    ]
