import math

from hornbook.training.loop import PATIENCE, Guard
from hornbook.training.step import Update


def update(loss, norm=1.0):
    return Update(loss * 100, 100, norm)


def test_a_steady_loss_is_nothing_to_speak_of():
    guard = Guard()
    assert [guard.watch(update(6 - i / 50 + 0.1 * math.sin(i))) for i in range(200)] == [None] * 200
    assert not guard.hopeless


def test_a_leap_is_named_with_its_numbers():
    guard = Guard()
    for i in range(30):
        assert guard.watch(update(3 + 0.01 * (i % 3))) is None
    sentence = guard.watch(update(5.0))
    assert "3.01" in sentence
    assert "5.00" in sentence
    assert guard.watch(update(3.0)) is None


def test_the_first_steps_may_move_as_they_like():
    guard = Guard()
    assert [guard.watch(update(loss)) for loss in (10.0, 30.0, 5.0, 11.0)] == [None] * 4


def test_gradients_that_are_not_finite():
    guard = Guard()
    for _ in range(PATIENCE - 1):
        assert "skipped" in guard.watch(update(math.nan, None))
    assert not guard.hopeless
    guard.watch(update(3.0))
    for _ in range(PATIENCE - 1):
        guard.watch(update(math.nan, None))
    assert not guard.hopeless  # they were not in a row
    guard.watch(update(math.nan, None))
    assert guard.hopeless
