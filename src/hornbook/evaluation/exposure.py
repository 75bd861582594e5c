"""How much better does a model know a planted text than any other of its kind? Exposure, in bits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np

from hornbook.evaluation.differences import Floats, num_below
from hornbook.evaluation.intervals import clusters
from hornbook.evaluation.score import Request, nats_alone, score_tokens
from hornbook.model.decoder import Decoder
from hornbook.text.canaries import BEFORE, Canaries, random_payloads
from hornbook.text.tokenizer import Tokenizer


def exposures(planted_nats: Floats, candidate_nats: Floats) -> Floats:
    """Exposure of each canary in bits: log2 |R| - log2 rank among itself and the candidates (Carlini et al. 2019).

    Where a canary was never planted its rank is uniform, and the mean tends to 1 / ln 2 = 1.44 bits; the most that
    n candidates can show is log2(n + 1). Equal candidates count half.

    >>> exposures(np.array([0.5, 3.5]), np.array([1.0, 2.0, 3.0])).tolist()
    [2.0, 0.0]
    """
    rank = 1 + num_below(planted_nats, candidate_nats)
    bits: Floats = np.log2(len(candidate_nats) + 1) - np.log2(rank)
    return bits


def exposure_table(
    model: Decoder, tokenizer: Tokenizer, canaries: Canaries, *, num_candidates: int = 10_000, seed: int = 0
) -> tuple[list[dict[str, Any]], float]:
    """A row for each number of repetitions (0: the null), and the rank correlation (Spearman) of exposure with it."""
    candidates = list(islice(random_payloads(canaries.words, np.random.default_rng([seed, 1])), num_candidates))
    texts = [canary.text for canary in canaries.canaries]
    nats = text_nats(model, tokenizer, [*texts, *candidates])
    bits = exposures(nats[: len(texts)], nats[len(texts) :])
    repetitions = np.array([float(canary.repetitions) for canary in canaries.canaries])
    rows = []
    for count in map(int, np.unique(repetitions)):
        exposure = bits[repetitions == count]
        mean = clusters(exposure, np.ones(len(exposure)))
        rows.append({
            "repetitions": count, "num_canaries": len(exposure), "exposure_bits": float(exposure.mean()),
            "exposure_bits_interval_95": None if mean is None else mean.interval,
            "largest_possible_bits": float(np.log2(num_candidates + 1)),
        })  # fmt: skip
    return rows, rank_correlation(bits, repetitions)


def rank_correlation(a: Floats, b: Floats) -> float:
    """Spearman's: the correlation of the ranks, equal values sharing their mean rank.

    >>> rank_correlation(np.array([1.0, 5.0, 9.0]), np.array([0, 1, 64]))
    1.0
    """
    return float(np.corrcoef(num_below(a, a), num_below(b, b))[0, 1].round(12))


def text_nats(model: Decoder, tokenizer: Tokenizer, texts: Sequence[str]) -> Floats:
    """Nats of each text, (len(texts),), as it was planted: on a line of its own, the line break before not scored."""
    before = tokenizer.encode(BEFORE).tolist()
    ids = [[*before, *tokenizer.encode(text).tolist()][: model.shape.context + 1] for text in texts]
    requests = [Request(tokens, len(tokens) - max(1, len(before))) for tokens in ids]
    return np.array([math.fsum(records["nats"].tolist()) for records in score_tokens(model, requests, nats_alone)])
