"""Every number that is recorded or printed: its name, unit, direction, and what it means in one sentence. Each once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hornbook.facts.errors import InputError, suggestion


@dataclass(frozen=True)
class Metric:
    """`better` is None for a number that is neither good nor bad, such as a count."""

    name: str
    unit: str
    better: Literal["lower", "higher"] | None
    sentence: str


_TABLE: tuple[tuple[str, str, Literal["lower", "higher"] | None, str], ...] = (
    # Where in a run: each can be the x-axis of the others.
    ("step", "steps", None, "Optimizer updates made so far."),
    ("best_step", "steps", None, "The step of the look with the lowest probe validation loss."),
    ("used_step", "steps", None, "The step whose weights the run is scored and used with."),
    ("tokens", "tokens", None, "Training targets scored so far, each epoch counting anew."),
    ("epoch", "epochs", None,
     "Complete passes over the training text so far; in one, each token is a target exactly once."),
    ("seconds", "s", None, "Time spent on training so far, over all resumes, evaluations not counted."),
    ("flops", "FLOP", None, "Arithmetic of all training so far, forward and backward, by the shape's own count."),
    ("wall_seconds", "s", None, "Time of the whole job by the clock on the wall, of all sessions of a run."),
    ("train_seconds", "s", None, "Time of the training steps alone, of all sessions of a run."),
    # Training.
    ("train_loss_nats_per_token", "nats/token", "lower",
     "Mean surprise over the tokens of one batch, before it is learned."),
    ("probe_train_loss_nats_per_token", "nats/token", "lower",
     "Mean surprise over a fixed set of windows of the training text."),
    ("probe_validation_loss_nats_per_token", "nats/token", "lower",
     "The same over fixed windows of the validation text (in logs of before: `validation_loss_nats_per_token`)."),
    ("probe_validation_bits_per_byte", "bits/byte", "lower", "The same in bits, per UTF-8 byte of these windows."),
    ("probe_generalization_gap_bits_per_byte", "bits/byte", "lower",
     "Bits per byte of the validation windows minus those of the training windows."),
    ("probe_train_window_nats", "nats/token", "lower", "Mean surprise of each training window, in a fixed order."),
    ("probe_validation_window_nats", "nats/token", "lower", "Mean surprise of each validation window, likewise."),
    ("learning_rate", "", None, "Learning rate of the step, after warm-up and decay."),
    ("gradient_norm", "", None, "Length of the gradient over all weights, before it is clipped."),
    ("tokens_per_second", "tokens/s", "higher", "Training targets scored per second of training."),
    ("mfu", "", "higher",
     "FLOPs per second by the shape's own count (PaLM's formula), of the peak; on a CPU of a measured matrix product."),
    # Surprise.
    ("validation_loss_nats_per_token", "nats/token", "lower",
     "Mean surprise over all tokens of the validation text, never trained on; over those outside the probe where the "
     "probe has chosen the weights."),
    ("chosen_on_this_text", "", None,
     "Whether the probe that has chosen the weights is most of the validation text, so that its loss is a little too "
     "low (true or false)."),
    ("outside_probe", "", None, "Whether the loss is that of the validation text outside the probe (true or false)."),
    ("loss_nats_per_token", "nats/token", "lower",
     "Mean of −ln p over the scored tokens: the average log-probability with its sign turned."),
    ("perplexity", "tokens", "lower",
     "exp(loss): the number of equally likely tokens the model hesitates between, in effect."),
    ("bits_per_byte", "bits/byte", "lower",
     "nats / (ln 2 · UTF-8 bytes): the only one that compares models with different tokenizers."),
    ("bits_per_character", "bits/char", "lower",
     "nats / (ln 2 · characters): comparable across tokenizers on one text, not across scripts."),
    ("perplexity_per_word", "words", "lower", "exp(nats / words), words being what stands between white space."),
    ("nats", "nats", "lower", "Sum of −ln p over the scored tokens."),
    ("end_nats", "nats", "lower", "−ln p of the end of a document where it ends; in no other sum."),
    ("end_nats_per_document", "nats/document", "lower", "Mean of −ln p of the end over documents; in no other sum."),
    ("difference_bits_per_byte", "bits/byte", "lower",
     "Bits per byte of model B minus those of model A on the same text: below zero, B is better."),
    # One token.
    ("logit", "", None, "The model's raw score of a token; only differences between tokens matter."),
    ("probability", "", "higher",
     "e^logit of the token that came, over the sum of e^logit of all tokens: between 0 and 1."),
    ("log_probability", "nats", "higher", "Natural logarithm of that probability; zero would be certainty."),
    ("rank", "", "lower",
     "Place of the token that came among all tokens by probability, 1 the first guess; equal ones share the mean."),
    ("entropy_nats", "nats", None, "Surprise the model itself expected before the token came."),
    # Counts.
    ("num_tokens", "tokens", None, "Scored tokens."),
    ("num_bytes", "bytes", None, "UTF-8 bytes of the scored text."),
    ("num_characters", "characters", None, "Characters (Unicode code points) of the scored text."),
    ("num_words", "words", None, "Words of the scored text, as white space separates them."),
    ("num_documents", "documents", None, "Documents evaluated."),
    # Learning by heart, and cost.
    ("extraction_rate", "", "lower", "Share of training passages that the model completes word for word."),
    ("control_extraction_rate", "", None,
     "The same share for held-out passages, which it cannot have learned by heart."),
    ("copied_share", "", "lower",
     "Share of what the model freely writes that stands in the training text, in longer spans than new text shares."),
    ("control_copied_share", "", None,
     "The same share for held-out text: what two texts of the kind have in common by nature."),
    ("trained_on_share", "", None,
     "Share of the scored text's bytes that stand in the model's training text in spans of about 48 or more."),
    ("lost_share", "", "lower",
     "Share of the scored text's bytes that its tokens do not give back: unknown, replaced or collapsed characters."),
    ("leaked_share", "", "lower",
     "Share of the validation text's words in sequences of 8 or more that the training text has, in passages of 24."),
    ("leaked_share_with_changes", "", "lower",
     "The same with the words between such sequences, at most 16 at once, as a copy with changed words has them."),
    ("validation_leaked", "", None, "Whether the share with changes is 1 % or more (true or false)."),
    ("generalization_gap_bits_per_byte", "bits/byte", "lower",
     "Bits per byte of held-out text minus those of training text: what was learned of the training text only."),
    ("excess_gap_bits_per_byte", "bits/byte", "lower",
     "That gap beyond the one of models that read neither text: what is left is no difference between the texts."),
    ("membership_auc", "", None,
     "How often a training passage surprises less than a held-out one: 0.5 is chance, 1 tells all of them apart."),
    ("gpu_hours", "device-hours", "lower", "Devices held, times hours."),
    ("energy_kwh", "kWh", "lower", "Energy that the accelerator's or the processors' own counter shows."),
    ("price_usd", "USD", "lower", "Hours times the price given."),
    ("peak_memory_bytes", "bytes", "lower", "The most that the job held: on the accelerator, or as a process."),
    ("forecast_loss_nats_per_token", "nats/token", "lower",
     "Where the validation loss will stand at the end, by this run's own curve so far."),
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
