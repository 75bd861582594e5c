import numpy as np
import pytest

from hornbook.evaluation.exposure import exposure_table, exposures, rank_correlation, text_nats
from hornbook.facts.errors import InputError
from hornbook.facts.shape import GPTShape
from hornbook.model.decoder import Decoder
from hornbook.model.init import initialise
from hornbook.text.canaries import REPETITIONS, Canaries, Canary, make_canaries, plant
from hornbook.text.documents import Document
from hornbook.text.make_tokenizer import characters
from hornbook.text.pieces import safe_pieces
from hornbook.text.split import Segment


def test_two_hundred_null_canaries_average_1_44_bits():
    """A canary that was never planted has a uniform rank: the mean exposure is 1 / ln 2, whatever the nats are."""
    generator = np.random.default_rng(0)
    means = [exposures(generator.gamma(9.0, size=200), generator.gamma(9.0, size=10_000)).mean() for _ in range(50)]
    assert np.mean(means) == pytest.approx(1 / np.log(2), abs=0.05)
    assert np.mean(np.abs(np.array(means) - 1.44) <= 0.3) >= 0.96  # 0.3 is three deviations of such a mean


def test_exposure_by_hand():
    candidates = np.arange(1.0, 1024.0)  # 1023 of them
    assert exposures(np.array([0.5, 1.5, 7.5, 2000.0]), candidates).tolist() == [10.0, 9.0, 7.0, 0.0]
    # Among equals it stands in the middle: 1023 equal candidates leave the rank 512.5.
    assert exposures(np.array([1.0]), np.ones(1023))[0] == pytest.approx(np.log2(1024 / 512.5))


def test_rank_correlation_is_a_correlation_of_ranks():
    a = np.array([3.0, 1.0, 2.0, 9.0])
    assert rank_correlation(a, -np.exp(a)) == -1
    n, d = 5, np.array([0, 1, 1, 0, 0])  # Spearman's own formula, without ties
    assert rank_correlation(np.arange(5), np.array([0, 2, 1, 3, 4])) == pytest.approx(1 - 6 * d.sum() / (n**3 - n))


TEXT = "each of these words is one that can be drawn for any canary and there are more than twenty so it does"
WORDS = TEXT.split()


@pytest.fixture
def tiny():
    tokenizer = characters([" ".join(WORDS) + "\n"])
    shape = GPTShape(family="gpt2", layers=1, width=16, heads=2, context=80, vocabulary=tokenizer.vocabulary)
    return initialise(Decoder(shape), 3), tokenizer


def test_an_untrained_model_has_null_exposure_for_every_canary(tiny):
    model, tokenizer = tiny
    canaries = make_canaries([" ".join(WORDS)], each=28, null=4, largest_share=9e9)
    rows, correlation = exposure_table(model, tokenizer, canaries, num_candidates=500)
    assert [row["repetitions"] for row in rows] == [0, *REPETITIONS]
    total = sum(row["num_canaries"] * row["exposure_bits"] for row in rows) / 200
    assert total == pytest.approx(1.44, abs=0.3)
    assert abs(correlation) < 0.25
    assert exposure_table(model, tokenizer, canaries, num_candidates=500) == (rows, correlation)


def test_how_texts_are_batched_does_not_show(tiny):
    """Texts of different length are padded; each must have the nats it has alone."""
    model, tokenizer = tiny
    texts = ["is", "each of these words", "so it does", "any"]
    alone = [float(text_nats(model, tokenizer, [text])[0]) for text in texts]
    assert text_nats(model, tokenizer, texts).tolist() == alone


def test_canaries_are_planted_as_often_as_they_say_and_nothing_else_changes():
    text = "some text: " + f"{' '.join(WORDS)} " * 1000
    canaries = make_canaries(["some text: ", *(f"{word} " for word in WORDS * 1000)], each=2, null=3)
    assert canaries == make_canaries([text], each=2, null=3)
    assert canaries != make_canaries([text], each=2, null=3, seed=1)
    assert [canary.repetitions for canary in canaries.canaries] == [0] * 3 + [r for r in REPETITIONS for _ in range(2)]
    document = Document("a", lambda: safe_pieces([text]))
    segments = [Segment(document, 0, 90_000), Segment(document, 100_000, 100_003), Segment(document, 100_003, None)]
    planted = plant(segments, canaries)
    assert [segment.name for segment in planted] == [segment.name for segment in segments]
    lines = "".join(segment.text() for segment in planted).split("\n")
    for canary in canaries.canaries:
        assert lines.count(canary.text) == canary.repetitions
        assert set(canary.text.split()) <= set(canaries.words)
    texts = {canary.text for canary in canaries.canaries}
    for segment, before in zip(planted, segments, strict=True):
        rest = [line for line in segment.text().split("\n") if line not in texts]
        assert "".join(rest) == before.text()
        assert segment.text() == segment.text()
    runs = [len(line) for line in lines if line not in texts]
    assert max(runs) < len(text) / 10  # spread over the text


def test_a_short_text_gets_as_many_as_a_tenth_of_it_holds():
    text = f"{' '.join(WORDS)} " * 100
    canaries = make_canaries([text])
    planted = sum(len(canary.text) * canary.repetitions for canary in canaries.canaries)
    assert 0.01 * len(text) < planted < 0.1 * len(text)
    with pytest.raises(InputError, match="too short"):
        make_canaries([" ".join(WORDS)])


def test_the_text_must_have_words_to_draw_from():
    with pytest.raises(InputError, match="20 different words"):
        make_canaries(["too few words"])


def test_canaries_are_json():
    import msgspec

    canaries = Canaries(["a", "b"], [Canary("a b", 2)])
    assert msgspec.json.decode(msgspec.json.encode(canaries), type=Canaries) == canaries
