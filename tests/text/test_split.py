import hashlib
import itertools
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.facts.errors import InputError
from hornbook.text.documents import Document, documents
from hornbook.text.pieces import safe_pieces
from hornbook.text.split import MANY_DOCUMENTS, Segment, default_rule, piece_counts, piece_edges, split


def document(name: str, text: str) -> Document:
    return Document(name, partial(safe_pieces, [text]))


def prose(num_characters: int) -> str:
    return " ".join(f"word{i}" for i in range(num_characters // 5 + 1))[:num_characters]


def text_of(segments: list[Segment]) -> list[str]:
    return [segment.text() for segment in segments]


@given(st.text(min_size=1, max_size=300), st.integers(0, 300), st.one_of(st.none(), st.integers(0, 300)))
def test_a_segment_is_a_slice_of_its_document(text, start, stop):
    segment = Segment(document("d", text * 400), start * 390, None if stop is None else stop * 390)
    expected = (text * 400)[start * 390 : None if stop is None else stop * 390]
    assert segment.text() == expected
    assert list(segment.pieces()) == list(safe_pieces([expected]))


def test_names():
    whole = document("d", "text")
    assert Segment(whole, 0, None).name == "d"
    assert Segment(whole, 0, 3).name == "d[0:3]"
    assert Segment(whole, 3, None).name == "d[3:]"


def test_none_trains_on_everything():
    both = [document("a", "x"), document("b", "y")]
    train, validation = split(both, "none")
    assert text_of(train) == ["x", "y"]
    assert validation == []


# tail


@given(st.integers(20, 70_000))
@settings(max_examples=20)
def test_tail_of_one_document_is_that_of_nanogpt(num_characters):
    text = prose(num_characters)
    train, validation = split([document("d", text)], "tail:0.1")
    n = int(0.9 * len(text))
    assert text_of(train + validation) == [text[:n], text[n:]]


@given(st.lists(st.integers(1, 1000), min_size=2, max_size=30), st.sampled_from([0.05, 0.1, 0.5]))
def test_tail_of_several_is_the_shortest_tail_of_documents_with_the_share(sizes, share):
    texts = ["x" * size for size in sizes]
    shortest = next(k for k in range(1, len(sizes) + 1) if sum(sizes[-k:]) >= share * sum(sizes))
    if shortest == len(sizes):
        with pytest.raises(InputError, match="training side empty"):
            split([document(str(i), text) for i, text in enumerate(texts)], f"tail:{share}")
        return
    train, validation = split([document(str(i), text) for i, text in enumerate(texts)], f"tail:{share}")
    assert [segment.name for segment in train + validation] == [str(i) for i in range(len(sizes))]
    assert len(validation) == shortest


# hash


def test_hash_depends_on_the_text_alone_and_keeps_duplicates_together():
    many = [document(f"d{i}", f"text {i % 500}") for i in range(1000)]
    train, validation = split(many, "hash:0.1")
    assert not set(text_of(train)) & set(text_of(validation))
    alone = {s.document.text() for s in split(many[:200], "hash:0.1")[1]}
    assert alone == set(text_of(validation)) & {d.text() for d in many[:200]}
    expected = {
        t for t in text_of(train + validation) if int(hashlib.sha256(t.encode()).hexdigest(), 16) < 0.1 * 2**256
    }
    assert set(text_of(validation)) == expected
    assert 20 < len(expected) < 80  # 50 of 500, more than four standard deviations on both sides
    larger = split(many, "hash:0.3")[1]
    assert set(text_of(validation)) < set(text_of(larger))


# blocks


@given(
    st.integers(0, 300_000),
    st.sampled_from([0.01, 0.1, 0.25, 0.5, 0.9]),
    st.sampled_from(["prose", "no spaces", "blank"]),
)
@settings(max_examples=60, deadline=None)
def test_blocks_are_disjoint_with_a_gap_and_have_the_share(num_characters, share, kind):
    texts = {"prose": prose(num_characters), "no spaces": "字" * num_characters, "blank": " " * num_characters}
    other = document("other", prose(50_000))
    train, validation = split([document("d", texts[kind]), other], f"blocks:{share}")
    mine = [
        (s.start, len(texts[kind]) if s.stop is None else s.stop, s in validation)
        for s in train + validation
        if s.document.name == "d"
    ]
    mine.sort()
    pieces = [stop - start for start, stop, is_validation in mine if is_validation]
    if share * num_characters < 64:
        assert mine == [(0, num_characters, False)]
        return
    assert len(pieces) >= 2
    # The ends of the text may cut the first and the last piece short; edges move back to the beginning of a word.
    cut_short = share * num_characters / len(pieces) * 2
    assert -40 * len(pieces) - cut_short <= sum(pieces) - share * num_characters <= 40 * len(pieces)
    assert mine[0][0] <= 300
    assert mine[-1][1] >= num_characters - 300
    for (_, stop, first), (start, _, second) in itertools.pairwise(mine):
        assert first or second
        if first and second:  # one ended its stretch where the other began its own
            assert 0 <= start - stop <= 600
        else:
            assert 0 < start - stop <= 300
    assert all(stop > start for start, stop, _ in mine)


def test_pieces_are_one_in_each_stretch_and_cut_no_word():
    text = prose(1_000_000)
    train, validation = split([document("d", text)], "blocks:0.1")
    assert len(validation) == 49  # one for each 2,048 bytes
    stretch = len(text) / 49
    for i, segment in enumerate(validation):
        assert i * stretch - 32 <= segment.start < (segment.stop or 0) <= (i + 1) * stretch
    for segment in train + validation:
        assert segment.start == 0 or text[segment.start - 1] == " "
        assert segment.stop is None or text[segment.stop - 1] == " "


def test_every_place_is_held_out_about_as_often():
    """A piece of 1,000 at one of the places of a stretch of 10,000; the ends of the text as often as what is inside,
    the seam between two stretches more seldom."""
    held = np.zeros(20_000)
    for seed in range(4000):
        for _, begin, end, _ in piece_edges(20_000, 0.1, 2, seed.to_bytes(4)):
            held[begin:end] += 1 / 4000
    assert held.mean() == pytest.approx(0.1, rel=0.06)
    for start in range(0, 8800, 1100):
        assert held[start : start + 1000].mean() == pytest.approx(0.101, rel=0.15)
        assert held[20_000 - start - 1000 : 20_000 - start].mean() == pytest.approx(0.101, rel=0.15)
    assert held[9_990:10_010].mean() < 0.05


def test_places_follow_from_the_text():
    first = [split([document("d", text)], "blocks:0.1")[1][0].start for text in (prose(50_000), prose(50_000)[::-1])]
    assert first[0] != first[1]
    assert first[0] == split([document("another", prose(50_000))], "blocks:0.1")[1][0].start


def test_both_ends_of_a_text_can_be_held_out():
    for number in range(300):
        text = f"{number} {prose(40_000)} end"
        train, validation = split([document("d", text)], "blocks:0.1")
        ends = {validation[0].start, validation[-1].stop}
        sizes = [len(each) for each in text_of(validation)]
        if ends == {0, len(text)}:
            break
    assert ends == {0, len(text)}
    assert text_of(validation)[-1].endswith("end")
    assert min(sizes) >= 16
    assert all(segment.start for segment in train)


@pytest.mark.parametrize(
    ("sizes", "pieces"),
    [
        ([700], [2]), ([5_000], [8]), ([24_000], [16]), ([600_000], [29]), ([9_000_000], [64]),
        ([300_000] * 4, [15] * 4), ([20_000] * 30, [2] * 30), ([500, 400_000], [0, 20]),
    ],
)  # fmt: skip
def test_numbers_of_pieces(sizes, pieces):
    assert piece_counts([(n, n) for n in sizes], 0.1) == pieces


def test_bytes_decide_how_many_pieces():
    """A text of 200,000 characters of three bytes has as many as one of 600,000 bytes."""
    assert piece_counts([(200_000, 600_000)], 0.1) == piece_counts([(600_000, 600_000)], 0.1) == [29]


# folder


def test_folder_by_name_and_by_path(tmp_path, monkeypatch):
    for name in ("train/a.txt", "valid/b.txt", "validation/c.txt"):
        (tmp_path / "texts" / name).parent.mkdir(parents=True)
        (tmp_path / "texts" / name).write_text(name)
    monkeypatch.chdir(tmp_path)
    for folder in ("valid", "valid/", "texts/valid", str(tmp_path / "texts" / "valid")):
        train, validation = split(documents(["texts"]), f"folder:{folder}")
        assert text_of(train) == ["train/a.txt", "validation/c.txt"]
        assert text_of(validation) == ["valid/b.txt"]
    train, validation = split(documents(["texts/train", "texts/valid"]), "folder:texts/valid")
    assert (text_of(train), text_of(validation)) == (["train/a.txt"], ["valid/b.txt"])
    with pytest.raises(InputError, match="give it among the texts too"):
        split(documents(["texts/train"]), "folder:texts/valid")
    with pytest.raises(InputError, match="training side empty"):
        split(documents(["texts/valid"]), "folder:texts/valid")


# Refusals


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("hsah:0.1", 'did you mean "hash"'),
        ("", "unknown"),
        ("hash", "as in hash:0.1"),
        ("hash:", "as in hash:0.1"),
        ("tail:0", "above 0 and at most 0.9"),
        ("tail:-0.1", "above 0 and at most 0.9"),
        ("tail:0.95", "above 0 and at most 0.9"),
        ("blocks:nan", "above 0 and at most 0.9"),
        ("blocks:ten", "above 0 and at most 0.9"),
        ("folder", "needs the folder"),
        ("folder:", "needs the folder"),
        ("none:0.1", "takes no argument"),
        ("blocks:0.1", "of 1 document leaves the validation side empty"),
        ("hash:0.0001", "validation side empty"),
        ("tail:0.1", "validation side empty"),
    ],
)
def test_rules_that_are_refused(rule, words):
    with pytest.raises(InputError) as caught:
        split([document("d", "x")], rule)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nothing_to_split():
    with pytest.raises(InputError, match="no document"):
        split([], "tail:0.1")


def test_the_default_rule_changes_at_fifty_documents():
    assert default_rule(MANY_DOCUMENTS - 1) == "blocks:0.1"
    assert default_rule(MANY_DOCUMENTS) == "hash:0.1"
