"""Every sentence that concludes something: its id, its rule, and how often it may be wrong. Each once.

A conclusion is a claim with a rate. `benchmarks/conclusions.py` holds each against cases whose answer is known, and
docs/conclusions.md sets the measured rate beside the one that is allowed.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Conclusion:
    """`false_at_most` is the share of cases in which it may be said although it is not so, `missing_at_most` the share
    of cases in which it may be left unsaid although it is so; None where that is not judged. `case` is the command
    `benchmarks/conclusions.py CASE` that measures both.
    """

    id: str
    says: str
    rule: str
    case: str
    false_at_most: float | None = 0.05
    missing_at_most: float | None = 0.10


_COVERAGE = "benchmarks/conclusions.py coverage"
_LEAKS = "benchmarks/conclusions.py leaks"
_SENTENCES = "benchmarks/conclusions.py sentences"
_PLAN = "benchmarks/conclusions.py plan"

_TABLE: tuple[Conclusion, ...] = (
    Conclusion(
        "interval_documents",
        "95 % low to high, about other text of this kind; too narrow where a few documents are unlike the rest (from "
        "30 documents)",
        "At least 5 documents: CR2 with the degrees of freedom of Bell and McCaffrey. Wrong where the value of all "
        "documents of the kind lies outside.",
        _COVERAGE, 0.07, None,
    ),
    Conclusion(
        "interval_pieces",
        "95 % low to high, about this document as a whole if none of it had been read, not about others (from 24 "
        "pieces of 1 document)",
        "At least 8 pieces in all and 2 of each document, each at a random place of its stretch (the default split of "
        "fewer than 50 documents): Student's t within documents. Wrong where the value of the whole lies outside.",
        _COVERAGE, 0.07, None,
    ),
    Conclusion(
        "interval_passage",
        "95 % low to high, about prose that goes on as this passage does, not about other texts; too narrow for code "
        "and files of many parts",
        "At most 4 documents, contiguous, 2,048 bytes and more: from 16 parts of equal bytes, whose dependence is that "
        "of prose. Wrong where the value of the whole text that the passage is of lies outside.",
        _COVERAGE, 0.07, None,
    ),
    Conclusion(
        "interval_of_unlike_parts",
        "the same intervals where the sentence says that they are too narrow",
        "A passage of a file of many parts, such as joined code or a manual, and documents of which a few are unlike "
        "the rest, such as tables among code: what was scored does not show that it is of this kind.",
        _COVERAGE, None, None,
    ),
    Conclusion(
        "beyond_chance",
        "beyond chance for these two models",
        "The paired interval of the difference, by the same rules, holds no 0; on one passage, of unknown kind, only "
        "where the difference exceeds 2.4 half-widths. Missing is judged on the default split of a long novel.",
        _COVERAGE, 0.07, 0.20,
    ),
    Conclusion(
        "leaked", "... % of the words of the validation text stand in the training text too",
        "Words in sequences of 8 that the training text has, within passages of at least 24 words with at most 16 "
        "others between two such sequences; said where the passages have 0.1 % of the words. The longest passage is "
        "named with its words, those in such sequences, the longest sequence in a row, and the documents that have it.",
        _LEAKS,
    ),
    Conclusion(
        "validation_leaked", "on all of its validation text, which is partly in its training text",
        "These passages have at least 1 % of the words; then no loss is expected in advance, nothing is concluded from "
        "n-gram baselines, and evaluate and compare warn.",
        _LEAKS,
    ),
    Conclusion(
        "duplicates", "... of ... training documents are duplicates of an earlier one (... exact, ... nearly)",
        "Exactly: the same SHA-256. Nearly: the same MinHash in at least half of 128 bins; the share of them, within "
        "0.15 of the share of 4-word sequences in common, is said with \"about\".",
        _LEAKS,
    ),
    Conclusion(
        "copies", "... validation documents are copies of training documents (... exact, ... nearly)",
        "As duplicates are found, across the two sides.", _LEAKS,
    ),
    Conclusion(
        "repeated", "The training text repeats itself: sequences of 8 words stand in it ... times on average",
        "Occurrences over different ones, by a sample of the sequences; said from 1.2 on.", _LEAKS,
    ),
    Conclusion(
        "trained_on", "... % of the bytes of this text stand in the text that the model was trained on",
        "Bytes of the tokens in spans of about 48 bytes that stand together in the training text; said from 1 % on.",
        _LEAKS,
    ),
    # ---- The end of a run: its curves (report/curves.py)
    Conclusion(
        "final_loss",
        "Loss on all of the validation text is 3.81 nats per token (perplexity 44.9).",
        "The loss that the headline prints, of the weights that the run is used with.",
        _SENTENCES, None, None,
    ),
    Conclusion(
        "chosen_apart",
        "The weights of step 73 are used, those with the lowest probe loss; the loss above is that of 12,400 validation"
        " tokens outside the probe.",
        "The best weights are used, and the validation text is long enough to keep some of it aside.",
        _SENTENCES, None, None,
    ),
    Conclusion(
        "chosen_on_this_text",
        "The weights of step 73 are used, chosen on this validation text itself, since it is too short to keep a part "
        "of it aside: the loss above is a little too low.",
        "The best weights are used, and nothing was kept aside.",
        _SENTENCES, None, None,
    ),
    Conclusion(
        "level",
        "Probe validation loss fell from 5.55 (perplexity 257) to 3.88 (perplexity 48.2).",
        "The first and the last look.",
        _SENTENCES, None, None,
    ),
    Conclusion(
        "made_worse",
        "Training made the model worse: probe validation loss rose from 4.02 to 4.31.",
        "The last look is worse than the first beyond noise (as for `turned`), and so is training loss.",
        _SENTENCES,
    ),
    Conclusion(
        "turned",
        "It was lowest, 2.34, between step 64 and step 75 (epochs 5.3 to 6.2), and has risen by 1.50 nats since, while"
        " training loss went on falling from 1.84 to 0.28: what was learned since does not carry over to the validation"
        " text.",
        "Both of the last two looks are worse than the best: the mean of the differences of the same probe windows is "
        "above its one-sided 99.5 % interval (16 groups of neighbouring windows), above 0.03 nats and above five times"
        " what the looks waver (of which 0.15 nats count at most). The steps are those of the looks before and after "
        "the best (of both valleys, where a bump parts two).",
        _SENTENCES,
    ),
    Conclusion(
        "unstable",
        "It was lowest, ..., but training loss did not fall meanwhile: look for an unstable step.",
        "As `turned`, and training loss fell by less than 0.02 nats since.",
        _SENTENCES, 0.05, None,
    ),
    Conclusion(
        "still_falling",
        "It was still falling at the end, by 0.12 nats over the last quarter, while the learning rate fell: whether a "
        "longer run would end lower is not known.",
        "A straight line through the looks of the last quarter of the tokens, drawn for each probe window: it falls by"
        " more than 0.02 nats and more than its 95 % interval.",
        _SENTENCES,
    ),
    Conclusion(
        "rising",
        "It rose by 0.08 nats over the last quarter.",
        "The same line rises; not `turned`.",
        _SENTENCES,
    ),
    Conclusion(
        "flat",
        "It hardly moved over the last quarter.",
        "The interval of that line lies within 0.04 nats.",
        _SENTENCES, 0.05, None,
    ),
    Conclusion(
        "no_trend",
        "Over the last quarter there is no trend beyond the noise (-0.02 ± 0.05 nats).",
        "None of these; it is wrong where its interval does not hold the fall.",
        _SENTENCES, 0.05, None,
    ),
    Conclusion(
        "few_looks",
        "There are too few evaluations to say how the curve bends.",
        "Fewer than four looks.",
        _SENTENCES, None, None,
    ),
    Conclusion(
        "not_best_used",
        "The run is scored and used with the weights of step 300, not with those of step 73, the lowest look.",
        "`turned`, and the weights used are later ones than the best.",
        _SENTENCES,
    ),
    Conclusion(
        "decision",
        "Validation loss has risen since step 73: the run goes back to the weights of that step and lets the learning "
        "rate fall over 36 more steps.",
        "What the run decided while it went on, by `run_turned`.",
        _SENTENCES, None, None,
    ),
    Conclusion(
        "read_once",
        "The run read its text at most once, so nothing can have been learned by heart through repetition.",
        "At most 1.05 readings: epochs / (1 - the share of the text that stands in it before).",
        _SENTENCES,
    ),
    Conclusion(
        "apart",
        "On the probe training loss ended at 1.04, 1.39 nats below validation loss, having read it 12.5 times: part of"
        " what was learned does not carry over to the validation text.",
        "The gap has grown since the last looks before anything was read twice (their median): by more than 0.04 nats "
        "and more than the 95 % interval of paired windows of both sides.",
        _SENTENCES,
    ),
    Conclusion(
        "together",
        "The gap between training (2.14) and validation loss (2.15) on the probe has not grown since the first "
        "reading, having read it 2.0 times: no sign of learning by heart.",
        "The interval of that growth ends below 0.1 nats.",
        _SENTENCES,
    ),
    Conclusion(
        "apart_unknown",
        "Whether training and validation loss move apart is within the noise of the probe.",
        "Neither `apart` nor `together`.",
        _SENTENCES, None, None,
    ),
    Conclusion(
        "parted",
        "The gap between the two is beyond the noise from between step 32 and step 40 (epochs 1.6 to 2.0) on.",
        "The first look from which on all are `apart`, and the look before it; never before anything was read twice.",
        _SENTENCES, 0.05, None,
    ),
    Conclusion(
        "by_heart",
        "The model has probably learned text by heart: ... Not measured: whether it continues passages of it word for "
        "word, ... (hornbook memorize does).",
        "The rule of facts/by_heart.py, with the lower end of the interval of the gap on the probe.",
        _SENTENCES, 0.05, None,
    ),
    Conclusion(
        "gap_leaked",
        "31% of the validation text stands in the training text too: the gap of 0.04 nats to training loss says nothing"
        " of learning by heart.",
        "At least 10 % of its words, by the check-up, and the training text was read more than 1.05 times.",
        _SENTENCES,
    ),
    Conclusion(
        "texts_differ",
        "The validation text is of another kind than the training text (pairs of tokens are 77% more surprising in it):"
        " the gap of 1.93 nats to training loss says nothing of learning by heart.",
        "A bigram model of the training text is at least 1.15 times as surprised by the validation text as one of its "
        "first three quarters by its last (evaluation/kinds.py), and the gap was 0.2 nats before anything was read "
        "twice; or 1.6 times. The training text was read more than 1.05 times.",
        _SENTENCES,
    ),
    Conclusion(
        "below_baseline",
        "The final loss of 2.31 is below the best n-gram baseline on the same text (5-gram, 2.38).",
        "By more than 0.02 nats, both on all of the validation text. It says nothing of word order: models of shuffled"
        " text may be below as well.",
        _SENTENCES,
    ),
    Conclusion(
        "equals_baseline",
        "The final loss of 2.31 is about that of the best n-gram baseline on the same text (5-gram, 2.32).",
        "Within 0.02 nats.",
        _SENTENCES, None, None,
    ),
    Conclusion(
        "above_baseline",
        "The final loss of 2.58 is above the best n-gram baseline on the same text (5-gram, 2.38): counts predict the "
        "text better.",
        "By more than 0.02 nats.",
        _SENTENCES,
    ),
    Conclusion(
        "worse_than_uniform",
        "The final loss of 8.20 is worse than uniform guessing (5.95): the model is confidently wrong.",
        "By more than 0.02 nats.",
        _SENTENCES,
    ),
    Conclusion(
        "not_finite",
        "At 3 steps the training loss was not finite.",
        "A count.",
        _SENTENCES, None, None,
    ),
    # ---- While a run goes on (training, report/curves.py, planning/rails.py, planning/forecast.py)
    Conclusion(
        "run_turned",
        "A run has turned at its best look (facts/looks.py), and ends early where it may.",
        "As `turned`, the tokens since the best look exceed half of those before it, and one epoch was read. Wrong "
        "where a later look is lower by 0.01 nats; missing where it has not come by twice the last step within 0.02 "
        "nats of the lowest point.",
        _SENTENCES,
    ),
    Conclusion(
        "memorizing",
        "probe validation loss was lowest between step 64 and step 75 (epochs 5.3 to 6.2) and has risen since, while "
        "training loss falls: what is learned now does not carry over to the validation text.",
        "As `turned`, at more than 1.05 readings, and training loss fell by more than 0.02 nats since.",
        _SENTENCES,
    ),
    Conclusion(
        "forecast",
        "forecast of the end 3.12 (2.91 to 3.35)",
        "A power law of the run's own looks with its 90 % band; nothing where the last two looks lie 3 % above the "
        "lowest, where it would not be below ln V, or at more than four readings.",
        _SENTENCES, 0.1, None,
    ),
    Conclusion(
        "first loss",
        "the first loss is 9.31 nats per token, where a fresh model starts between 5.50 and 5.60",
        "Outside the range of the initialisation.",
        _SENTENCES, 0.05, None,
    ),
    Conclusion(
        "targets not shifted",
        "the validation loss is 0.21 nats per token, lower than any model of unseen text",
        "Validation and training loss below 15 % of the unigram entropy, in text that is not known to be leaked.",
        _SENTENCES, 0.05, None,
    ),
    Conclusion(
        "validation text seen",
        "... 60% of the validation text stands in the training text too, so it was seen.",
        "The same, where at least 10 % is known to be leaked.",
        _SENTENCES, 0.05, None,
    ),
    Conclusion(
        "unlike validation text",
        "the validation loss of 5.81 nats per token is above ln V = 5.55 while the training loss is 3.02, within the "
        "first epoch: the validation text is unlike the training text",
        "Twice 0.1 nats above ln V, training 0.5 nats below it, within the first epoch.",
        _SENTENCES,
    ),
    Conclusion(
        "only token frequencies",
        "the loss has stood at 3.06 nats per token, the level of the token frequencies (3.05), for most of 240 steps: "
        "nothing else has been learned yet.",
        "From 200 steps and four warm-ups on: three quarters of the steps within 5 % of the unigram entropy, falling "
        "by less than 1.5 % of it. It names a slow start and foreign targets as what looks so; where counts of token "
        "pairs do no better, the text.",
        _SENTENCES,
    ),
    Conclusion(
        "learning rate",
        "the learning rate 0.09 for adamw is 30 times the rule at width 128: lower it.",
        "More than 8 times the rule.",
        _SENTENCES, 0.05, None,
    ),
    Conclusion(
        "no warm-up",
        "there is no warm-up and the learning rate is 3.0 times the rule at width 128",
        "None at more than 2.5 times the rule, or a jump of 0.5 nats within 30 steps.",
        _SENTENCES, 0.05, None,
    ),
    Conclusion(
        "diverges",
        "the training loss has risen from 2.10 to 5.30 nats per token: the run diverges",
        "Two tenths of steps 1 nat above the lowest, or no finite loss in ten steps.",
        _SENTENCES, 0.05, None,
    ),
    Conclusion(
        "frozen layer",
        "blocks.1.attention.query.weight have not changed since the start while others have",
        "No bit of a weight changed in 20 steps.",
        _SENTENCES, 0.05, None,
    ),
    Conclusion(
        "left its forecast",
        "the validation loss has left its forecast: 4.012 nats per token after 1,500,000 tokens, where this run's own "
        "curve said at most 3.310.",
        "Three looks above the band that those before them gave, and above the lowest of those. Wrong where the run "
        "ends lower than before.",
        _SENTENCES, 0.05, None,
    ),
    Conclusion(
        "plan_hours", "device-hours  226,000 (128,000 to 399,000)",
        "Nine in ten published runs of people whose runs the fit has not seen lie in the range.", _PLAN, 0.15, None,
    ),
    Conclusion(
        "plan_memory", "memory        3.2 GiB a device at microbatch 2",
        "The peak of the process, from start to summary, within 10 %.", _PLAN, 0.0, None,
    ),
    Conclusion(
        "memorize_by_heart",
        "Learned by heart: the model continues ... of its training passages word for word",
        "One of three, by the lower end of its 95 % interval: more than one training passage in a hundred beyond the "
        "control is continued word for word, passages that repeat themselves left out; more than one token in a "
        "hundred beyond the control is copied, the control being held-out text and other places of the training text; "
        "or half of the surprise at new text is gone on the training text, beyond the difference that n-gram models "
        "find which have read neither, in a text that was read more than once (copies within it count) and is of the "
        "held-out text's kind.",
        "benchmarks/conclusions.py memorize", 0.05, 0.10,
    ),
    Conclusion(
        "memorize_knows_better",
        "Not learned by heart word for word, but it knows its training text better than new text",
        "The gap's 95 % interval is above zero, with and without the difference that n-gram models find which have "
        "read neither; the two texts are of one kind, and the model beats a bigram model on new text.",
        "benchmarks/conclusions.py memorize", 0.05, None,
    ),
    Conclusion(
        "memorize_texts_differ",
        "The two texts differ in kind, so that this concludes nothing",
        "N-gram models of the two sides, neither of which has read what it scores, tell which side a passage is from: "
        "a training passage is more like the training text than a held-out passage is in more than 87 % of pairs, and "
        "beyond chance.",
        "benchmarks/conclusions.py memorize", 0.05, 0.10,
    ),
    Conclusion(
        "memorize_not_learned_enough",
        "The model has not learned enough to tell",
        "Its loss on new text is not below that of a bigram model of the training text, and nothing shows learning by "
        "heart.",
        "benchmarks/conclusions.py memorize", None, None,
    ),
    Conclusion(
        "memorize_not_by_heart",
        "Not learned by heart",
        "None of the three of by_heart, and the model beats a bigram model on new text.",
        "benchmarks/conclusions.py memorize", 0.10, None,
    ),
)  # fmt: skip

CONCLUSIONS: dict[str, Conclusion] = {row.id: row for row in _TABLE}
