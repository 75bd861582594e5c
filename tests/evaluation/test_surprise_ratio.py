import numpy as np
import pytest

from hornbook.evaluation.baselines import surprise_ratio


def _ids(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("ascii", "ignore"), np.uint8).astype(np.int64)


def test_two_passages_of_one_text_are_of_one_kind_and_another_language_is_not(english: str) -> None:
    train, held = _ids(english[:20_000]), _ids(english[20_000:24_000])
    same = surprise_ratio(train, held, 257)
    assert same == pytest.approx(1.0, abs=0.08)
    letters = "abcdefghijklmnopqrstuvwxyz"
    foreign = english[20_000:24_000].translate(str.maketrans(letters, letters[7:] + letters[:7]))
    other = surprise_ratio(train, _ids(foreign), 257)
    assert other is not None
    assert other > 1.5


def test_a_few_tokens_tell_nothing() -> None:
    assert surprise_ratio(np.arange(7), np.arange(5), 10) is None
    assert surprise_ratio(np.arange(8), np.arange(1), 10) is None
    assert surprise_ratio(np.arange(8), np.arange(2), 10) is not None
