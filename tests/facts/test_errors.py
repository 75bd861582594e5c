import pytest

from hornbook.facts.errors import InputError, Interrupted, SystemFailure, suggestion


@pytest.mark.parametrize(
    ("word", "nearest"),
    [("--stpes", "--steps"), ("lerning_rate", "learning_rate"), ("widht", "width"), ("steps", "steps")],
)
def test_the_nearest_word(word, nearest):
    allowed = ["--steps", "learning_rate", "width", "heads", "steps"]
    assert suggestion(word, allowed) == f' (did you mean "{nearest}"?)'


@pytest.mark.parametrize("allowed", [[], ["layers", "width"]])
def test_nothing_near(allowed):
    assert suggestion("qqqqqq", allowed) == ""


def test_the_two_kinds_are_apart():
    assert not issubclass(InputError, SystemFailure)
    assert not issubclass(SystemFailure, InputError)
    assert issubclass(InputError, ValueError)


def test_an_interrupt_knows_its_signal_and_is_no_failure():
    error = Interrupted("stopped", 15)
    assert (str(error), error.signal_number) == ("stopped", 15)
    assert not isinstance(error, InputError | SystemFailure)
