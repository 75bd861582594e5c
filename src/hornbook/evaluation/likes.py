"""The conventions of other programs, so that their numbers can be reconciled with ours. Same model, same text."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from hornbook.evaluation.corpus import beginning_of, conventions
from hornbook.evaluation.score import Request, nats_alone, score_tokens
from hornbook.evaluation.windows import windows
from hornbook.facts.errors import InputError
from hornbook.facts.units import counted
from hornbook.likelihood import perplexity
from hornbook.model.decoder import Decoder
from hornbook.text.tokenizer import Tokenizer


def like_huggingface(
    model: Decoder, tokenizer: Tokenizer, texts: Sequence[str], *, window: int | None = None, stride: int | None = None
) -> dict[str, Any]:
    """The strided perplexity of the transformers documentation ("Perplexity of fixed-length models").

    Documents are joined by blank lines into one text, whose first token is not scored; windows of `window` tokens
    (default: the context) move by `stride` (default: 512). Each window's mean counts as often as it has new tokens less
    one, as there, although all new tokens of the later windows are scored.
    """
    window = model.shape.context if window is None else window
    stride = min(512 if stride is None else stride, window)
    window, stride, *_ = conventions(model, tokenizer, window=window, stride=stride)
    before, after = tokenizer.around  # as there, where the tokenizer is called without further ado
    ids = np.concatenate([before, tokenizer.encode("\n\n".join(texts)), after]).astype(np.int64)
    requests, weights, done = [], [], 0
    for start in range(0, len(ids), stride):
        stop = min(start + window, len(ids))
        if num_scored := max(0, stop - max(done, start + 1)):
            requests.append(Request(ids[start:stop], num_scored))
            weights.append(stop - done - 1)
        done = stop
        if stop == len(ids):
            break
    if not sum(weights):
        raise InputError("there is no token to score in this text; give a longer one.")
    scored = score_tokens(model, requests, nats_alone)
    means = [float(np.ascontiguousarray(records["nats"]).mean()) for records in scored]
    loss = math.fsum(w * mean for w, mean in zip(weights, means, strict=True)) / sum(weights)
    beginning = f"id {before[0]}, which the tokenizer puts there, not scored" if before else (
        "none: the first token of the text is not scored")  # fmt: skip
    return {
        "like": "huggingface", "loss_nats_per_token": loss, "perplexity": perplexity(loss), "num_tokens": sum(weights),
        "conventions": {
            "text": f"{counted(len(texts), 'document')} joined by blank lines",
            "window": f"{window} tokens", "stride": f"{stride} tokens", "beginning": beginning,
            "weights": "a window's mean counts as its new tokens less one, as there; num_tokens is their sum",
        },
    }  # fmt: skip


def like_lm_eval(
    model: Decoder, tokenizer: Tokenizer, texts: Sequence[str], *, window: int | None = None
) -> dict[str, Any]:
    """`loglikelihood_rolling` of lm-evaluation-harness: disjoint windows, one token before the first window only.

    Words are counted as there: pieces between white space, empty ones at the ends included. Raises InputError for a
    tokenizer without a token that could stand before the text. What a tokenizer puts around a text by itself is scored,
    as there: a text may begin with two <s>, the second of which is a token like any other.
    """
    beginning = beginning_of(tokenizer)
    if beginning is None:
        raise InputError("lm-eval's convention needs a beginning-of-text token, which this tokenizer does not have.")
    window = conventions(model, tokenizer, window=window).window
    before, after = tokenizer.around
    requests = []
    for text in texts:
        sequence = np.concatenate([[beginning], before, tokenizer.encode(text), after]).astype(np.int64)
        cuts = windows(len(sequence) - 1, window, window)
        requests += [Request(sequence[cut.start : cut.stop + 1], cut.stop - cut.first) for cut in cuts]
    scored = score_tokens(model, requests, nats_alone)
    nats = math.fsum(nats for records in scored for nats in records["nats"].tolist())
    num_words = sum(len(re.split(r"\s+", text)) for text in texts)
    num_bytes = sum(len(text.encode()) for text in texts)
    if not requests:
        raise InputError("there is no token to score in this text; give a longer one.")
    then = f"; then id {before[0]}, which the tokenizer puts there, scored" if before else ""
    return {
        "like": "lm-eval", "word_perplexity": perplexity(nats / num_words),
        "byte_perplexity": perplexity(nats / num_bytes), "bits_per_byte": nats / (math.log(2) * num_bytes),
        "num_tokens": sum(request.num_scored for request in requests), "num_words": num_words, "num_bytes": num_bytes,
        "conventions": {
            "window": f"{window} tokens", "stride": f"{window} tokens",
            "beginning": f"id {beginning} before each document, not scored{then}",
            "words": "pieces between white space, empty ones at the ends included",
        },
    }  # fmt: skip
