"""A bigram model of the training text: what a language model must beat before it can be said to have learned."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hornbook.data.shards import Part

_BLOCK_TOKENS = 2**16
_COUNTED_TOKENS = 2**24  # of a longer text, evenly spread blocks are counted: more hardly changes a bigram model
_STRENGTHS = 2.0 ** np.arange(-4, 16)


def bigram_nats(part: Part, tokens: NDArray[np.int64], vocabulary: int) -> NDArray[np.float64]:
    """Nats of each token but the first of rows (R, W) under the bigram model of `part`: (R, W - 1).

    p(b | a) = (count(ab) + s p(b)) / (count(a) + s), with p(b) = (count(b) + 1) / (tokens + vocabulary): a Dirichlet
    prior on the unigram model (MacKay and Peto 1995). The strength s is the power of 2 that suits `tokens` best, which
    makes the baseline a little harder to beat than it could be.
    """
    codes = tokens[:, :-1] * vocabulary + tokens[:, 1:]
    wanted = np.unique(codes)
    pairs = np.zeros(len(wanted), np.int64)
    unigrams, contexts = np.zeros(vocabulary, np.int64), np.zeros(vocabulary, np.int64)
    num_blocks = -(-part.num_tokens // _BLOCK_TOKENS)
    every = -(-part.num_tokens // _COUNTED_TOKENS)
    for block in range(0, num_blocks, every):
        start = block * _BLOCK_TOKENS
        ids = part.take(np.array([start]), min(_BLOCK_TOKENS, part.num_tokens - start))[0]
        unigrams += np.bincount(ids, minlength=vocabulary)
        contexts += np.bincount(ids[:-1], minlength=vocabulary)
        seen = ids[:-1] * vocabulary + ids[1:]
        at = np.minimum(np.searchsorted(wanted, seen), len(wanted) - 1)
        pairs += np.bincount(at[wanted[at] == seen], minlength=len(wanted))
    p = (unigrams + 1) / (unigrams.sum() + vocabulary)
    count = pairs[np.searchsorted(wanted, codes)]
    nats = [-np.log((count + s * p[tokens[:, 1:]]) / (contexts[tokens[:, :-1]] + s)) for s in _STRENGTHS]
    best: NDArray[np.float64] = min(nats, key=lambda some: float(some.sum()))
    return best
