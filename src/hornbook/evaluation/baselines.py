"""What is a loss worth? Uniform, unigram and smoothed n-gram models of the same training text, on the same tokens.

Interpolated modified Kneser-Ney (Chen and Goodman 1999, section 3 and equation 26): with c(h w) how often w follows the
context h, c(h) how often anything does, h' the context without its first token, and D(0) = 0,

    p(w | h) = (c(h w) - D(c(h w))) / c(h)  +  p(w | h') (sum over v of D(c(h v))) / c(h)

The model of order n counts n-grams as they stand; below n, c(h w) is how many different tokens precede h w, the
beginning of the text being one. Below order 1 every token has 1 / V. Each order has discounts of its own: with n_r, how
many n-grams have the count r,  D(r) = r - (r + 1) n_(r+1) / n_r  n_1 / (n_1 + 2 n_2)  for r = 1, 2, and 3 and more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hornbook.data.shards import TokenStream
from hornbook.evaluation.corpus import Conventions, EncodedDocument, kept_tokens
from hornbook.evaluation.probe import Places as LeftOut
from hornbook.facts.limits import COUNTED_TOKENS
from hornbook.likelihood import Surprise

Ids = NDArray[np.int64]
Places = NDArray[np.int32]
Floats = NDArray[np.float64]

ORDER = 5
MOST_COUNTED = 2**18  # tokens of each side that `surprise_ratio` reads: enough for counts of pairs
_STRETCH_TOKENS = 2**16
FALLBACK = (0.5, 1.0, 1.5)  # as KenLM's


class Counts(NamedTuple):
    """Counts of one order and their discounts: `counts` of each n-gram; of each context, by its place, their sum
    `followed` = c(h) and `spare` = the share of the context's probability that the order below gives out; `discounts`
    D(c) at 0, 1, 2, 3.
    """

    counts: Places
    followed: Places
    spare: Floats
    discounts: Floats


class NgramOrder(NamedTuple):
    """The n-grams of one order: sorted `codes`, (context's place in the order below) x vocabulary + token; how often
    each `stands` in the text; and for the orders above, how many tokens it `continues`, None at the highest order.
    """

    codes: Ids
    stands: Counts
    continues: Counts | None


def count_ngrams(stream: Ids, vocabulary: int, order: int = ORDER) -> list[NgramOrder]:
    """Count the n-grams of a stream of ids (n,), n < 2^31, up to `order`, or up to n where the stream is shorter."""
    ngrams: list[NgramOrder] = []
    ending, places = np.zeros(len(stream) + 1, np.int32), 1  # the place of the (length - 1)-gram at each position
    for length in range(1, min(order, len(stream)) + 1):
        seen = ending[:-1].astype(np.int64)
        seen *= vocabulary
        seen += stream[length - 1 :]
        codes, where, counts = _unique(seen, places * vocabulary)
        del seen
        if ngrams:
            shorter = ngrams[-1]
            suffix = np.empty(len(codes), np.int32)
            suffix[where] = ending[1:]
            preceded = np.bincount(suffix, minlength=places).astype(np.int32)
            preceded[ending[0]] += 1  # by the beginning
            continues = _discounted(preceded, shorter.codes // vocabulary, len(shorter.stands.followed))
            ngrams[-1] = shorter._replace(continues=continues)
        ngrams.append(NgramOrder(codes, _discounted(counts, codes // vocabulary, places), None))
        ending, places = where, len(codes)
    return ngrams


def _unique(numbers: Ids, bound: int) -> tuple[Ids, Places, Places]:
    """np.unique of `numbers` in [0, bound), which are overwritten, with inverse and counts. Positions are sorted along
    in the low bits where they fit, which takes about half of the time and memory."""
    n = len(numbers)
    bits = (n - 1).bit_length()
    if bound << bits > 2**63:
        codes, inverse, counts = np.unique(numbers, return_inverse=True, return_counts=True)
        return codes, inverse.astype(np.int32), counts.astype(np.int32)
    numbers <<= bits
    numbers |= np.arange(n)
    numbers.sort()
    at = (numbers & ((1 << bits) - 1)).astype(np.int32)
    numbers >>= bits
    first = np.ones(n, bool)
    np.not_equal(numbers[1:], numbers[:-1], out=first[1:])
    where: Places = np.empty(n, np.int32)
    where[at] = np.cumsum(first, dtype=np.int32) - 1
    starts = np.flatnonzero(first)
    return numbers[starts], where, np.diff(starts, append=n).astype(np.int32)


def _discounted(counts: Places, contexts: Ids, num_contexts: int) -> Counts:
    """Of the n-grams' `counts` and the places of their `contexts`, both (n,)."""
    discounts = discounts_of(np.bincount(np.minimum(counts, 5), minlength=6)[1:5].tolist())
    followed = np.bincount(contexts, counts, num_contexts).astype(np.int32)
    spare = np.bincount(contexts, discounts[np.minimum(counts, 3)], num_contexts) / np.maximum(followed, 1)
    return Counts(counts, followed, spare, discounts)


def discounts_of(num_with: Sequence[int]) -> Floats:
    """D at 0, 1, 2, and 3 and more, from how many n-grams have the counts 1, 2, 3, 4; FALLBACK where one is outside
    (0, r), as in a text so short, or with so few tokens to the vocabulary, that a count is nowhere.

    >>> [round(d, 3) for d in discounts_of([100, 40, 20, 15]).tolist()]  # D(1) = 1 - 2 (40 / 100) (100 / 180)
    [0.0, 0.556, 1.167, 1.333]
    >>> discounts_of([2, 0, 0, 0]).tolist()
    [0.0, 0.5, 1.0, 1.5]
    """
    y = num_with[0] / max(1, num_with[0] + 2 * num_with[1])
    discounts = [r - (r + 1) * y * more / max(1, few) for r, (few, more) in enumerate(pairwise(num_with), 1)]
    is_sound = all(0 < d < r for r, d in enumerate(discounts, 1))
    return np.array([0.0, *(discounts if is_sound else FALLBACK)])


def ngram_nats(ngrams: Sequence[NgramOrder], sequences: Ids, vocabulary: int) -> list[Floats]:
    """Nats of each token of `sequences` (..., n) but the first, (..., n - 1), by the n-gram models of order 1, 2, ...
    of `ngrams`. Where fewer tokens stand before, the model of the longest context that fits answers."""
    lower = p = np.full(sequences.shape, 1 / vocabulary)  # `lower`: what the orders below give out
    context, results = np.zeros(sequences.shape, np.int64), []
    for length, order in enumerate(ngrams, 1):
        is_known = context >= 0
        place = np.where(is_known, context, 0)
        codes = place * vocabulary + sequences
        ngram = np.minimum(np.searchsorted(order.codes, codes), len(order.codes) - 1)
        is_hit = is_known & (order.codes[ngram] == codes)
        is_known &= order.stands.followed[place] > 0
        shorter, p = p, np.where(is_known, _probability(order.stands, ngram, is_hit, place, lower), lower)
        p[..., : length - 1] = shorter[..., : length - 1]
        results.append(-np.log(p[..., 1:]))
        if order.continues is not None:
            lower = np.where(is_known, _probability(order.continues, ngram, is_hit, place, lower), lower)
        context = np.full(sequences.shape, -1)
        context[..., 1:] = np.where(is_hit, ngram, -1)[..., :-1]
    return results


def _probability(counts: Counts, ngram: Ids, is_hit: NDArray[np.bool_], place: Ids, lower: Floats) -> Floats:
    """The interpolation of the module's docstring."""
    count = np.where(is_hit, counts.counts[ngram], 0)
    kept = count - counts.discounts[np.minimum(count, 3)]
    return kept / np.maximum(counts.followed[place], 1) + counts.spare[place] * lower


def baseline_names(order: int) -> list[str]:
    """
    >>> baseline_names(3)
    ['uniform', 'unigram', '2-gram', '3-gram']
    """
    return ["uniform", "unigram", *(f"{n}-gram" for n in range(2, order + 1))]


def baseline_nats(ngrams: Sequence[NgramOrder], sequences: Ids, vocabulary: int) -> dict[str, Floats]:
    """Nats of each token of `sequences` (..., n) but the first, (..., n - 1), by uniform guessing and by the n-gram
    models of `ngrams`, by the baselines' names."""
    nats = ngram_nats(ngrams, sequences, vocabulary)
    uniform = np.full(nats[0].shape, math.log(vocabulary))
    return dict(zip(baseline_names(len(nats)), [uniform, *nats], strict=True))


def surprise_ratio(training: Ids, validation: Ids, vocabulary: int) -> float | None:
    """Is the validation text of the kind of the training text? The mean nats of a bigram model of `training` (n,) at
    `validation` (m,), over those of a bigram model of its first three quarters at its last. Near 1 for two passages of
    one text (95 % lie below 1.04), 1.1 to 2 for prose and code, verse or another language. None for fewer than eight
    tokens.
    """
    training, validation = training[:MOST_COUNTED], validation[:MOST_COUNTED]
    cut = len(training) * 3 // 4
    if cut < 6 or len(validation) < 2:
        return None
    own = ngram_nats(count_ngrams(training[:cut], vocabulary, 2), training[cut:], vocabulary)[-1].mean()
    other = ngram_nats(count_ngrams(training, vocabulary, 2), validation, vocabulary)[-1].mean()
    return float(other / own) if own > 0 else None


def training_stream(part: TokenStream) -> Ids:
    """The ids of a part, or evenly spread stretches of it where they are more than COUNTED_TOKENS."""
    every = -(-part.num_tokens // COUNTED_TOKENS)
    starts = range(0, part.num_tokens, _STRETCH_TOKENS * every)
    pieces = [part.take(np.array([s]), min(_STRETCH_TOKENS, part.num_tokens - s))[0] for s in starts]
    return np.concatenate(pieces)


def baselines(
    part: TokenStream, documents: Sequence[EncodedDocument], how: Conventions, vocabulary: int,
    leave_out: Sequence[LeftOut] | None = None,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Loss and bits per byte of each baseline on the tokens that `evaluate` scores, `leave_out` as there."""
    stream = training_stream(part)
    ngrams = count_ngrams(stream, vocabulary)
    before = [] if how.beginning is None else [how.beginning]
    sums: dict[str, list[float]] = {name: [] for name in baseline_names(len(ngrams))}
    num_tokens = num_bytes = 0
    for document, places in zip(documents, leave_out or [()] * len(documents), strict=True):
        sequence = np.concatenate([np.array(before, np.int64), document.tokens]).astype(np.int64)
        if len(sequence) < 2:
            continue
        kept = kept_tokens(document, places)[len(document.tokens) - len(sequence) + 1 :]
        scored = document.tokens[len(document.tokens) - len(kept) :]
        num_tokens += int(kept.sum())
        num_bytes += document.num_bytes - int(document.byte_lengths[scored[~kept]].sum())
        for name, nats in baseline_nats(ngrams, sequence, vocabulary).items():
            sums[name].append(math.fsum(nats[kept].tolist()))
    totals = {name: Surprise(math.fsum(nats), num_tokens, num_bytes) for name, nats in sums.items()}
    return {
        name: {
            "loss_nats_per_token": total.loss if num_tokens else None,
            "bits_per_byte": total.bits_per_byte if num_bytes else None,
            "num_tokens_counted": len(stream) if name != "uniform" else 0,
        }
        for name, total in totals.items()
    }
