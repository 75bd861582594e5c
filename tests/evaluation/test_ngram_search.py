import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.data.shards import TokenStream
from hornbook.evaluation import ngram_search as spans
from hornbook.evaluation.ngram_search import find_spans, longest_matches, shared_tokens


def part_of(documents, *, shard_tokens, separator=99):
    """The documents as a part, cut into shards of `shard_tokens` wherever that falls."""
    rows, stream = [], []
    for tokens in documents:
        stream += [separator] if separator is not None else []
        rows.append((len(stream), len(tokens), -1, -1, -1))
        stream += list(tokens)
    ids = np.array(stream, np.uint16)
    shards = [ids[i : i + shard_tokens] for i in range(0, len(ids), shard_tokens)]
    names = [f"document {i}" for i in range(len(rows))]
    return TokenStream(shards, np.array(rows, np.int64).reshape(-1, 5), names, separator=separator is not None)


@pytest.mark.parametrize("hash_bits", [32, 3])
def test_the_shared_tokens_are_what_the_longest_matches_cover(monkeypatch, hash_bits):
    """Also where most hashes of different n-grams are equal, as some of 32 bits are in a long text."""
    monkeypatch.setattr(spans, "_CHUNK_TOKENS", 97)
    hashes, kept = spans._hashes, np.uint32(2**32 - 2 ** (32 - hash_bits))
    monkeypatch.setattr(spans, "_hashes", lambda ids, n: hashes(ids, n) & kept)
    generator = np.random.default_rng(2)
    part = part_of([generator.integers(0, 3, size=n).tolist() for n in (60, 1, 130)], shard_tokens=37)
    for length in (1, 4, 5, 9, 300):
        queries = [generator.integers(0, 4, size=generator.integers(0, 30)) for _ in range(40)]
        covered = []
        for query, longest in zip(queries, longest_matches(part, queries, length), strict=True):
            covered += [any(longest[j] > i - j for j in range(i + 1)) for i in range(len(query))]
        assert shared_tokens(part, queries, length).tolist() == covered


def found(part, queries, min_length):
    columns = (map(np.ndarray.tolist, some) for some in find_spans(part, queries, min_length))
    return sorted(row for some in columns for row in zip(*some, strict=True))


def brute_force(documents, part, queries, min_length):
    """Every pair of places is tried, token by token."""
    rows = []
    for q, query in enumerate(queries):
        for d, tokens in enumerate(documents):
            for i in range(len(query)):
                for j in range(len(tokens)):
                    if i and j and query[i - 1] == tokens[j - 1]:
                        continue
                    n = 0
                    while i + n < len(query) and j + n < len(tokens) and query[i + n] == tokens[j + n]:
                        n += 1
                    if n >= min_length:
                        rows.append((q, i, n, int(part.documents[d, 0]) + j, d))
    return sorted(rows)


def test_a_thousand_random_queries_equal_brute_force(monkeypatch):
    monkeypatch.setattr(spans, "_CHUNK_TOKENS", 97)  # so that matches cross chunks as well as shards
    generator = np.random.default_rng(1)
    documents = [generator.integers(0, 3, size=n).tolist() for n in (60, 0, 1, 130, 45)]
    queries = [generator.integers(0, 3, size=generator.integers(0, 14)) for _ in range(700)]
    for _ in range(300):  # and pieces of the text itself, some with one token changed
        tokens = documents[generator.choice([0, 3, 4])]
        start = generator.integers(0, len(tokens) - 10)
        piece = np.array(tokens[start : start + generator.integers(1, 40)])
        if generator.random() < 0.5:
            piece[generator.integers(len(piece))] = 99  # the separator, which is in no document
        queries.append(piece)
    part = part_of(documents, shard_tokens=37)
    rows = found(part, queries, 6)
    assert rows == brute_force(documents, part, queries, 6)
    assert len(rows) > 1000


@settings(deadline=None, max_examples=150)
@given(
    documents=st.lists(st.lists(st.integers(0, 1), max_size=20), min_size=1, max_size=4),
    queries=st.lists(st.lists(st.integers(0, 1), max_size=20), max_size=4),
    min_length=st.integers(1, 5),
    shard_tokens=st.integers(1, 30),
    separator=st.sampled_from([None, 7]),
)
def test_any_documents_queries_and_shards(documents, queries, min_length, shard_tokens, separator):
    part = part_of(documents, shard_tokens=shard_tokens, separator=separator)
    if part.num_tokens == 0:
        assert found(part, [np.array(q, int) for q in queries], min_length) == []
        return
    queries = [np.array(query, int) for query in queries]
    rows = found(part, queries, min_length)
    assert rows == brute_force(documents, part, queries, min_length)
    for query, longest in zip(queries, longest_matches(part, queries, min_length), strict=True):
        texts = [bytes(tokens) for tokens in documents]
        for i, length in enumerate(longest.tolist()):
            rest = bytes(query[i:].tolist())
            best = max(n for n in range(len(rest) + 1) if any(rest[:n] in text for text in texts))
            assert length == (best if best >= min_length else 0)


def test_a_match_does_not_cross_a_document():
    part = part_of([[1, 2, 3], [4, 5, 6]], shard_tokens=100, separator=None)
    assert found(part, [np.array([1, 2, 3, 4, 5, 6])], 2) == [(0, 0, 3, 0, 0), (0, 3, 3, 3, 1)]


def test_equal_hashes_are_not_enough(monkeypatch):
    monkeypatch.setattr(spans, "ngram_hashes", lambda ids, n: np.zeros(len(ids) - n + 1, np.uint32))
    part = part_of([[1, 2, 3, 4, 5]], shard_tokens=3)
    assert found(part, [np.array([8, 2, 3, 4])], 3) == [(0, 1, 3, 2, 0)]


def test_a_long_copy_and_many_pairs(monkeypatch):
    """A whole document as the query, and runs of one token, whose pairs must be taken in slices."""
    monkeypatch.setattr(spans, "_PAIRS", 1000)
    text = np.random.default_rng(0).integers(0, 90, 20_000).tolist()
    part = part_of([text], shard_tokens=4096)
    assert found(part, [np.array(text)], 50) == [(0, 0, 20_000, 1, 0)]
    part = part_of([[5] * 100], shard_tokens=64)
    assert found(part, [np.array([5] * 80)], 10) == brute_force([[5] * 100], part, [[5] * 80], 10)


def test_the_memory_does_not_grow_with_the_text(tmp_path):
    def peak_bytes(num_tokens):
        path = tmp_path / f"{num_tokens}.bin"
        np.random.default_rng(0).integers(0, 4096, num_tokens).astype(np.uint16).tofile(path)
        ids = np.memmap(path, np.uint16, mode="r")
        part = TokenStream([ids], np.array([[0, num_tokens, -1, -1, -1]]), ["all"], separator=False)
        queries = [np.array(ids[i : i + 256]) for i in range(0, 10_000, 1000)]
        tracemalloc.start()
        assert sum(len(some.length) for some in find_spans(part, queries, 8)) >= 10
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    small, large = peak_bytes(200_000), peak_bytes(4_000_000)
    assert large < small + 2**20


def test_the_memory_is_bounded_in_a_text_that_repeats_itself():
    """As chats from a few templates do: each n-gram of the queries stands at thousands of places."""
    text = np.tile(np.random.default_rng(0).integers(0, 90, 50), 4000)
    part, queries = part_of([text], shard_tokens=10**6), [text[i : i + 128] for i in range(0, 640, 64)]
    tracemalloc.start()
    assert all(longest.max() == 128 for longest in longest_matches(part, queries, 8))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 2**20


def test_a_length_below_one_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        next(find_spans(part_of([[1]], shard_tokens=1), [np.array([1])], 0))
