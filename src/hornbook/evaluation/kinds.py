"""Is the validation text of the kind of the training text? By counts alone, before any model is asked."""

from __future__ import annotations

from hornbook.evaluation.baselines import Ids, count_ngrams, ngram_nats

MOST_COUNTED = 2**18  # tokens of each side: enough for counts of pairs


def surprise_ratio(training: Ids, validation: Ids, vocabulary: int) -> float | None:
    """How much more surprising pairs of tokens are in the validation text than in the training text itself: the mean
    nats of a bigram model of `training` (n,) at `validation` (m,), over those of a bigram model of its first three
    quarters at its last. Near 1 for two passages of one text (95 % lie below 1.04), 1.1 to 2 for
    prose and code, verse or another language. None for fewer than eight tokens.
    """
    training, validation = training[:MOST_COUNTED], validation[:MOST_COUNTED]
    cut = len(training) * 3 // 4
    if cut < 6 or len(validation) < 2:
        return None
    own = ngram_nats(count_ngrams(training[:cut], vocabulary, 2), training[cut:], vocabulary)[-1].mean()
    other = ngram_nats(count_ngrams(training, vocabulary, 2), validation, vocabulary)[-1].mean()
    return float(other / own) if own > 0 else None
