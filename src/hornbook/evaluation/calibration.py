"""Is the model calibrated? And of samples: do they repeat themselves, and are they text at all?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from hornbook.evaluation.corpus import Conventions, EncodedDocument, document_requests
from hornbook.evaluation.inspection import target_record
from hornbook.evaluation.score import score_tokens
from hornbook.model.decoder import Decoder
from hornbook.text.tokenizer import Tokenizer

BINS = 15
TOP = (1, 5, 10, 100)


def calibration(model: Decoder, documents: Sequence[EncodedDocument], how: Conventions) -> dict[str, Any]:
    """Entropy gap, calibration error, top-k accuracy and mean reciprocal rank over every scored token.

    `entropy_gap_nats` is mean nats - mean entropy: 0 where the model is as surprised as it expects to be, above 0 where
    it is overconfident. `expected_calibration_error`: the mean of |accuracy - confidence|
    of the most probable token over 15 bins of equal mass (Naeini et al. 2015). Equal logits share the mean of their
    places, and count for `top_accuracy` as if drawn in any order.
    """
    how = how._replace(end=None)

    def measure(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        best, guess = logits.log_softmax(-1).max(-1)
        return target_record(logits, targets) | {"confidence": best.exp(), "is_right": guess == targets}

    requests = [request for document in documents for request in document_requests(document, how)]
    records = np.concatenate(score_tokens(model, requests, measure))
    nats, entropies, ranks, tied, confidence, is_right = (
        np.ascontiguousarray(records[name])
        for name in ("nats", "entropy_nats", "rank", "tied", "confidence", "is_right")
    )
    above = ranks - (tied + 1) / 2
    bins = calibration_bins(confidence, is_right)
    return {
        "num_tokens": len(nats),
        "entropy_gap_nats": float(nats.mean() - entropies.mean()),
        "mean_entropy_nats": float(entropies.mean()),
        "expected_calibration_error": math.fsum(abs(b["accuracy"] - b["confidence"]) * b["share"] for b in bins),
        "calibration_bins": bins,
        "top_accuracy": {
            str(k): float(np.clip((k - above) / tied, 0, 1).mean()) for k in TOP if k <= model.shape.vocabulary
        },
        "mean_reciprocal_rank": float((1 / ranks).mean()),
        "median_rank": float(np.median(ranks)),
    }


def calibration_bins(confidence: np.ndarray, correct: np.ndarray) -> list[dict[str, float]]:
    """Up to 15 bins of equally many tokens, by confidence: its mean, the accuracy, the share of tokens.

    >>> [b["accuracy"] for b in calibration_bins(np.array([0.2, 0.9]), np.array([False, True]))]
    [0.0, 1.0]
    """
    order = np.argsort(confidence, kind="stable")
    return [
        {"confidence": float(confidence[places].mean()), "accuracy": float(correct[places].mean()),
         "share": len(places) / len(order)}
        for places in np.array_split(order, min(BINS, len(order)))
    ]  # fmt: skip


def sample_statistics(samples: Sequence[Sequence[int]], tokenizer: Tokenizer) -> dict[str, Any]:
    """How samples (lists of ids, of equal length for a fair comparison) repeat themselves; the same on human text tells
    what is normal.

    `distinct_n`: different n-grams of tokens / all, over all samples. `repetition_4`: 1 - the same within one sample,
    averaged (Welleck et al. 2020, seq-rep-4). `loop_rate`: share of samples that end in the same 1 to 32 tokens three
    times. `invalid_utf8_rate`: share of samples whose bytes are not text (a character cut by the end is not counted).
    """
    grams = {n: [_ngrams(sample, n) for sample in samples] for n in range(1, 5)}
    distinct = {}
    for n, by_sample in grams.items():
        together = [gram for sample in by_sample for gram in sample]
        distinct[f"distinct_{n}"] = len(set(together)) / len(together) if together else None
    return {
        "num_samples": len(samples),
        **distinct,
        "repetition_4": _mean([1 - len(set(sample)) / len(sample) for sample in grams[4] if sample]),
        "loop_rate": _mean([_loops(sample) for sample in samples]),
        "invalid_utf8_rate": _mean([not _is_text(tokenizer.decode_bytes(list(sample))) for sample in samples]),
    }


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _ngrams(sample: Sequence[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(sample[i : i + n]) for i in range(len(sample) - n + 1)]


def _loops(sample: Sequence[int]) -> bool:
    tail = list(sample)
    return any(
        tail[-n:] == tail[-2 * n : -n] == tail[-3 * n : -2 * n] for n in range(1, 33) if len(tail) >= max(3 * n, 12)
    )


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return "unexpected end" in error.reason
    return True
